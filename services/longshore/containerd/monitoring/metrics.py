"""What Prometheus is told: of the daemon itself, and of each container by what its shim measures.

Names of container metrics are those of containerd's cgroup collectors, their
labels ``container_id`` and ``namespace``.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from longshore.api import errors
from longshore.api.cgroups.v1.metrics_pb2 import Metrics as MetricsV1
from longshore.api.cgroups.v2.metrics_pb2 import Metrics as MetricsV2
from longshore.api.runtime.task.v3 import shim_pb2 as shim_api
from longshore.api.typeurls import type_name
from longshore.containerd.metadata.store import Store
from longshore.containerd.monitoring.http import Page
from longshore.containerd.tasks.manager import Manager
from longshore.containerd.tasks.shim import Shim

KIND: Final = "text/plain; version=0.0.4; charset=utf-8"
_AT_ONCE: Final = 32
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    kind: str = "gauge"
    help: str = ""
    family: str = ""  # of a histogram's parts, whose names have endings


class Collector:
    """`more` are samples of others."""

    def __init__(
        self,
        store: Store,
        manager: Manager,
        version: str,
        more: Callable[[], Iterable[Sample]] = tuple,
    ) -> None:
        self._store, self._manager, self._version, self._more = store, manager, version, more
        self._started = time.time()

    async def page(self) -> Page:
        """All samples in the text format."""
        namespaces = self._store.read(
            lambda connection: [name for (name,) in connection.execute("SELECT name FROM namespaces")]
        )
        shims = [shim for namespace in namespaces for shim in await self._manager.all(namespace)]
        slots = asyncio.Semaphore(_AT_ONCE)
        found = await asyncio.gather(*(self._container(shim, slots) for shim in shims))
        samples = [
            *self._daemon(len(shims)),
            *(sample for samples in found for sample in samples),
            *self._more(),
        ]
        return Page(text(samples).encode(), KIND)

    async def _container(self, shim: Shim, slots: asyncio.Semaphore) -> list[Sample]:
        """Nothing of one that doesn't answer in time: the rest matters more."""
        async with slots:
            try:
                answer = await shim.call(
                    "Stats",
                    shim_api.StatsRequest(id=shim.id),
                    shim_api.StatsResponse,
                    timeout=self._manager.timeouts.stats,
                )
            except errors.Error:
                return []
        labels = (("container_id", shim.id), ("namespace", shim.bundle.namespace))
        return list(of_container(answer.stats, labels))

    def _daemon(self, tasks: int) -> Iterator[Sample]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        with open("/proc/self/statm", encoding="ascii") as file:
            virtual, resident, *_ = map(int, file.read().split())
        build = (("revision", ""), ("version", self._version))
        yield Sample("containerd_build_info_total", 1, build, "counter", "containerd build information")
        yield Sample("longshore_tasks", tasks, help="Tasks with a live shim")
        cpu = usage.ru_utime + usage.ru_stime
        yield Sample("process_cpu_seconds_total", cpu, (), "counter", "User and system CPU time, s")
        yield Sample("process_resident_memory_bytes", resident * _PAGE, help="Resident memory")
        yield Sample("process_virtual_memory_bytes", virtual * _PAGE, help="Virtual memory")
        yield Sample("process_open_fds", len(os.listdir("/proc/self/fd")), help="Open file descriptors")
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield Sample("process_max_fds", limit, help="Most file descriptors that may be open")
        yield Sample("process_start_time_seconds", self._started, help="Start, s since the epoch")


def of_container(stats: Any, labels: tuple[tuple[str, str], ...]) -> Iterator[Sample]:
    """What a shim measured, by either version of cgroups; nothing if it is neither."""
    kind = _KINDS.get(type_name(stats))
    if kind is None:
        return
    try:
        yield from kind(stats.value, labels)
    except DecodeError:
        return


def _v1(data: bytes, labels: tuple[tuple[str, str], ...]) -> Iterator[Sample]:
    found = MetricsV1.FromString(data)
    usage, memory = found.cpu.usage, found.memory
    yield Sample("container_cpu_total_nanoseconds", usage.total, labels, "counter", "CPU time, ns")
    yield Sample(
        "container_cpu_kernel_nanoseconds", usage.kernel, labels, "counter", "CPU time in the kernel, ns"
    )
    yield Sample(
        "container_cpu_user_nanoseconds", usage.user, labels, "counter", "CPU time in user space, ns"
    )
    yield Sample("container_memory_usage_usage_bytes", memory.usage.usage, labels, help="Memory in use")
    yield Sample("container_memory_usage_limit_bytes", memory.usage.limit, labels, help="Memory limit")
    yield Sample("container_memory_usage_max_bytes", memory.usage.max, labels, help="Most memory ever in use")
    yield Sample("container_memory_rss_bytes", memory.rss, labels, help="Anonymous memory")
    yield Sample("container_memory_cache_bytes", memory.cache, labels, help="Page cache")
    yield Sample("container_pids_current", found.pids.current, labels, help="Processes")
    yield Sample("container_pids_limit", found.pids.limit, labels, help="Most processes")


def _v2(data: bytes, labels: tuple[tuple[str, str], ...]) -> Iterator[Sample]:
    found = MetricsV2.FromString(data)
    cpu, memory = found.cpu, found.memory
    yield Sample("container_cpu_usage_usec_microseconds", cpu.usage_usec, labels, "counter", "CPU time, us")
    yield Sample(
        "container_cpu_user_usec_microseconds", cpu.user_usec, labels, "counter", "In user space, us"
    )
    yield Sample(
        "container_cpu_system_usec_microseconds", cpu.system_usec, labels, "counter", "In the kernel, us"
    )
    yield Sample("container_memory_usage_bytes", memory.usage, labels, help="Memory in use")
    yield Sample("container_memory_usage_limit_bytes", memory.usage_limit, labels, help="Memory limit")
    yield Sample("container_memory_anon_bytes", memory.anon, labels, help="Anonymous memory")
    yield Sample("container_memory_file_bytes", memory.file, labels, help="Page cache")
    yield Sample("container_pids_current", found.pids.current, labels, help="Processes")
    yield Sample("container_pids_limit", found.pids.limit, labels, help="Most processes")


_KINDS: Final[dict[str, Callable[[bytes, tuple[tuple[str, str], ...]], Iterator[Sample]]]] = {
    MetricsV1.DESCRIPTOR.full_name: _v1,
    MetricsV2.DESCRIPTOR.full_name: _v2,
}


def text(samples: Iterable[Sample]) -> str:
    """The text format, version 0.0.4: samples of a name stand together."""
    named: dict[str, list[Sample]] = {}
    for sample in samples:
        named.setdefault(sample.family or sample.name, []).append(sample)
    lines: list[str] = []
    for name, group in sorted(named.items()):
        lines += [f"# HELP {name} {group[0].help}", f"# TYPE {name} {group[0].kind}"]
        lines += [f"{sample.name}{_labels(sample)} {sample.value!r}" for sample in group]
    return "\n".join(lines) + "\n"


def _labels(sample: Sample) -> str:
    pairs = (f'{key}="{value.translate(_ESCAPES)}"' for key, value in sample.labels)
    return "{" + ",".join(pairs) + "}" if sample.labels else ""


_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
