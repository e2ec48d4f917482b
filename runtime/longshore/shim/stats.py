"""A container's figures, as io.containerd.cgroups.v1.Metrics or v2.Metrics. Runs in a worker."""

from __future__ import annotations

import os
from typing import Any

from google.protobuf.message import Message

from longshore.api.cgroups.v1 import metrics_pb2 as v1
from longshore.api.cgroups.v2 import metrics_pb2 as v2
from longshore.api.errors import NotFound
from longshore.linux import files
from longshore.linux.cgroup import layout, values
from longshore.linux.cgroup.manager import Cgroup


def find(pid: int) -> tuple[dict[str, str], int]:
    """The directories of a process' cgroups by controller, and the cgroup version."""
    where = layout.detect(membership=files.read_bounded(f"/proc/{pid}/cgroup"))
    cgroup = Cgroup.of(where, "")
    return {name: path.rstrip("/") for name, path in cgroup.paths.items()}, cgroup.version


def metrics(paths: dict[str, str], version: int) -> tuple[str, bytes]:
    """Full name and bytes of the Metrics message. Raises NotFound when the cgroup is gone."""
    if not paths or not os.path.isdir(next(iter(paths.values()))):
        raise NotFound("cgroup does not exist: not found")
    cgroup = Cgroup(paths, version)
    figures = cgroup.stats()
    message: Message = _v1(figures, cgroup) if version == 1 else _v2(figures, paths[""], cgroup)
    return message.DESCRIPTOR.full_name, message.SerializeToString()


_MEMORY_V1 = {
    "cache": "cache",
    "rss": "rss",
    "rss_huge": "rss_huge",
    "mapped_file": "mapped_file",
    "dirty": "dirty",
    "writeback": "writeback",
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "inactive_anon": "inactive_anon",
    "active_anon": "active_anon",
    "inactive_file": "inactive_file",
    "active_file": "active_file",
    "unevictable": "unevictable",
    "hierarchical_memory_limit": "hierarchical_memory_limit",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}

_MEMORY_ENTRIES = {"usage": "usage", "swap": "swap", "kernel": "kernel", "kernelTCP": "kernel_tcp"}

_BLKIO = {
    "ioServiceBytesRecursive": "io_service_bytes_recursive",
    "ioServicedRecursive": "io_serviced_recursive",
    "ioQueueRecursive": "io_queued_recursive",
    "ioServiceTimeRecursive": "io_service_time_recursive",
    "ioWaitTimeRecursive": "io_wait_time_recursive",
    "ioMergedRecursive": "io_merged_recursive",
    "ioTimeRecursive": "io_time_recursive",
    "sectorsRecursive": "sectors_recursive",
}


def _v1(figures: dict[str, Any], cgroup: Cgroup) -> v1.Metrics:
    message = v1.Metrics()
    _cpu_v1(message.cpu, figures.get("cpu", {}))
    pids = figures.get("pids", {})
    message.pids.current, message.pids.limit = pids.get("current", 0), pids.get("limit", 0)
    _memory_v1(message.memory, figures.get("memory", {}))
    for key, field in _BLKIO.items():
        for entry in figures.get("blkio", {}).get(key, ()):
            getattr(message.blkio, field).add(**entry)
    for size, entry in figures.get("hugetlb", {}).items():
        message.hugetlb.add(
            pagesize=size,
            usage=entry.get("usage", 0),
            max=entry.get("max", 0),
            failcnt=entry.get("failcnt", 0),
        )
    message.memory_oom_control.oom_kill = cgroup.oom_kills()
    return message


def _cpu_v1(cpu: v1.CPUStat, figures: dict[str, Any]) -> None:
    usage = figures.get("usage", {})
    cpu.usage.total = usage.get("total", 0)
    cpu.usage.kernel = usage.get("kernel", 0)
    cpu.usage.user = usage.get("user", 0)
    cpu.usage.per_cpu.extend(usage.get("percpu", ()))
    throttling = figures.get("throttling", {})
    cpu.throttling.periods = throttling.get("periods", 0)
    cpu.throttling.throttled_periods = throttling.get("throttledPeriods", 0)
    cpu.throttling.throttled_time = throttling.get("throttledTime", 0)


def _memory_v1(memory: v1.MemoryStat, figures: dict[str, Any]) -> None:
    raw = figures.get("raw", {})
    for key, field in _MEMORY_V1.items():
        setattr(memory, field, raw.get(key, 0))
        total = "total_" + field
        if hasattr(memory, total):
            setattr(memory, total, raw.get("total_" + key, 0))
    for key, field in _MEMORY_ENTRIES.items():
        entry = figures.get(key, {})
        target = getattr(memory, field)
        for name in ("limit", "usage", "max", "failcnt"):
            setattr(target, name, entry.get(name, 0))


_MEMORY_V2 = {
    "usage": "memory.current",
    "usage_limit": "memory.max",
    "max_usage": "memory.peak",
    "swap_usage": "memory.swap.current",
    "swap_limit": "memory.swap.max",
}


def _v2(figures: dict[str, Any], path: str, cgroup: Cgroup) -> v2.Metrics:
    message = v2.Metrics()
    pids = figures.get("pids", {})
    message.pids.current, message.pids.limit = pids.get("current", 0), pids.get("limit", 0)
    _fill(message.cpu, _table(path + "/cpu.stat"))
    raw = dict(figures.get("memory", {}).get("raw", {}))
    # From the files: what `Cgroup.stats` gives counts swap as v1 does, memory included.
    for field, file in _MEMORY_V2.items():
        raw[field] = values.number(f"{path}/{file}")
    _fill(message.memory, raw)
    _fill(message.memory_events, _table(path + "/memory.events"))
    return message


def _fill(message: Message, figures: dict[str, int]) -> None:
    """Set the fields of the message that have figures; kernels add names faster than protocols do."""
    for name in message.DESCRIPTOR.fields_by_name:
        if name in figures:
            setattr(message, name, figures[name])


def _table(path: str) -> dict[str, int]:
    try:
        lines = files.read_bounded(path).decode().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
