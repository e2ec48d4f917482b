"""`docker stats`: what a container uses, in the Engine API's shapes (cgroup v1 and v2).

A reading is compared with the one before it (`precpu_stats`): clients
calculate a share of the machine from the two.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from longshore.api.errors import Error
from longshore.client.tasks import Task
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.backend.times import NEVER, rfc3339

Json = dict[str, Any]

_SECOND: Final = 1_000_000_000
_INTERVAL: Final = 1.0  # seconds between two readings
_PATIENCE: Final = 2.0  # seconds for containerd and the shim to give the first
_PATIENCE_AGAIN: Final = 1.0  # and another one, when we have that to answer with
_UNLIMITED: Final = 1 << 62  # bytes; v1 writes a number near 2**63
_MAX: Final = (1 << 64) - 1

# Of the v1 message, by the API's names.
_BLOCK_FIELDS: Final = {
    "io_service_bytes_recursive": "io_service_bytes_recursive",
    "io_serviced_recursive": "io_serviced_recursive",
    "io_queued_recursive": "io_queue_recursive",
    "io_service_time_recursive": "io_service_time_recursive",
    "io_wait_time_recursive": "io_wait_time_recursive",
    "io_merged_recursive": "io_merged_recursive",
    "io_time_recursive": "io_time_recursive",
    "sectors_recursive": "sectors_recursive",
}

_EMPTY: Final[Json] = {
    "read": NEVER,
    "preread": NEVER,
    "pids_stats": {},
    "blkio_stats": dict.fromkeys(_BLOCK_FIELDS.values()),
    "num_procs": 0,
    "storage_stats": {},
    "cpu_stats": {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    },
    "precpu_stats": {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    },
    "memory_stats": {},
}


async def once(parts: Parts, live: Live, *, compare: bool) -> Json:
    """One reading; with `compare` it takes a second, for the one before it. A container that doesn't run has none."""
    if not live.has_process:
        return named(live, _EMPTY)
    first = await read(parts, live)
    if not compare or first is None:
        return first or named(live, _EMPTY)
    await asyncio.sleep(_INTERVAL)
    second = await read(parts, live, _PATIENCE_AGAIN)
    return compared(second, first) if second is not None else first


async def follow(parts: Parts, live: Live) -> AsyncGenerator[Json, None]:
    """A reading per second until the container is removed; empty ones while it doesn't run."""
    before: Json | None = None
    removed = live.removed.add()
    try:
        while not removed.done():
            now = await read(parts, live) if live.has_process else None
            yield named(live, _EMPTY) if now is None else compared(now, before)
            before = now
            await asyncio.wait([removed], timeout=_INTERVAL)
    finally:
        removed.cancel()


def named(live: Live, document: Json) -> Json:
    return document | {"name": f"/{live.record.name}", "id": live.id}


def compared(now: Json, before: Json | None) -> Json:
    if before is None:
        return now
    return now | {"preread": before["read"], "precpu_stats": before["cpu_stats"]}


async def read(parts: Parts, live: Live, patience: float = _PATIENCE) -> Json | None:
    """None if it has just ended, or if nobody tells in time: a shim that hangs must not hold up who asks."""
    try:
        async with asyncio.timeout(patience):
            metrics = await Task(parts.client.tasks, live.id).metrics()
    except (Error, TimeoutError):
        return None
    document = named(live, _EMPTY | {"read": rfc3339(time.time_ns())} | shaped(metrics))
    usage = document["cpu_stats"]
    usage["system_cpu_usage"], usage["online_cpus"] = machine()
    memory = document["memory_stats"]
    if memory and (memory.get("limit", 0) >= _UNLIMITED or not memory.get("limit")):
        memory["limit"] = total_memory()
    if has_own_network(live):
        found = interfaces(live.record.state.pid)
        if found:
            document["networks"] = found
    return document


def has_own_network(live: Live) -> bool:
    mode = live.record.host_config.network_mode
    return mode not in ("host", "none") and not mode.startswith("container:")


def shaped(metrics: Message) -> Json:
    """The members that cgroups give."""
    if metrics.DESCRIPTOR.full_name.startswith("io.containerd.cgroups.v2."):
        return _second(metrics)
    return _first(metrics)


# -- cgroup v1


def _first(found: Any) -> Json:
    usage, throttling = found.cpu.usage, found.cpu.throttling
    document: Json = {
        "pids_stats": _pids(found.pids),
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": usage.total,
                **({"percpu_usage": list(usage.per_cpu)} if usage.per_cpu else {}),
                "usage_in_kernelmode": usage.kernel,
                "usage_in_usermode": usage.user,
            },
            "throttling_data": {
                "periods": throttling.periods,
                "throttled_periods": throttling.throttled_periods,
                "throttled_time": throttling.throttled_time,
            },
        },
        "blkio_stats": _block_first(found.blkio),
    }
    if found.HasField("memory"):
        memory = found.memory
        document["memory_stats"] = {
            "usage": memory.usage.usage,
            "max_usage": memory.usage.max,
            "stats": _memory_stats(memory),
            "limit": memory.usage.limit,
            **({"failcnt": memory.usage.failcnt} if memory.usage.failcnt else {}),
        }
    return document


def _pids(found: Any) -> Json:
    """An absent limit is none; the original says so with the largest number."""
    document = {"current": found.current} if found.current else {}
    limit = found.limit
    if limit and limit < _MAX >> 1:
        document["limit"] = limit
    return document


# A field of the message, where the kernel's word isn't its name.
_RENAMED: Final = {
    "pg_pg_in": "pgpgin",
    "pg_pg_out": "pgpgout",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
    "hierarchical_swap_limit": "hierarchical_memsw_limit",
}


def _memory_stats(memory: Any) -> dict[str, int]:
    """memory.stat, by the kernel's words."""
    values: dict[str, int] = {}
    for field in memory.DESCRIPTOR.fields:
        if field.message_type is not None:
            continue
        prefix, name = ("total_", field.name[6:]) if field.name.startswith("total_") else ("", field.name)
        values[prefix + _RENAMED.get(name, name)] = getattr(memory, field.name)
    return values


def _block_first(found: Any) -> Json:
    return {theirs: _entries(getattr(found, ours)) for ours, theirs in _BLOCK_FIELDS.items()}


def _entries(found: Iterable[Any]) -> list[Json]:
    return [
        {"major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value} for entry in found
    ]


# -- cgroup v2


def _second(found: Any) -> Json:
    cpu = found.cpu
    document: Json = {
        "pids_stats": _pids(found.pids),
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": cpu.usage_usec * 1000,
                "usage_in_kernelmode": cpu.system_usec * 1000,
                "usage_in_usermode": cpu.user_usec * 1000,
            },
            "throttling_data": {
                "periods": cpu.nr_periods,
                "throttled_periods": cpu.nr_throttled,
                "throttled_time": cpu.throttled_usec * 1000,
            },
        },
        "blkio_stats": _EMPTY["blkio_stats"] | {"io_service_bytes_recursive": _block_second(found.io)},
    }
    if found.HasField("memory"):
        memory = found.memory
        stats = {
            field.name: getattr(memory, field.name)
            for field in memory.DESCRIPTOR.fields
            if field.message_type is None and field.name not in _NOT_STATISTICS
        }
        document["memory_stats"] = {"usage": memory.usage, "stats": stats, "limit": memory.usage_limit}
        if found.HasField("memory_events") and found.memory_events.oom:
            document["memory_stats"]["failcnt"] = found.memory_events.oom
    return document


_NOT_STATISTICS: Final = frozenset(
    ("usage", "usage_limit", "swap_usage", "swap_limit", "max_usage", "swap_max_usage")
)


def _block_second(found: Any) -> list[Json]:
    entries = []
    for entry in found.usage:
        for word, value in (("read", entry.rbytes), ("write", entry.wbytes)):
            entries.append({"major": entry.major, "minor": entry.minor, "op": word, "value": value})
    return entries


# -- the machine: short files of the kernel's memory, so no thread is waited for


def machine() -> tuple[int, int]:
    """(nanoseconds that all processors have counted since the boot, how many are on)."""
    with open("/proc/stat") as file:
        lines = file.read().splitlines()
    # user, nice, system, idle, iowait, irq, softirq: guest time is in user's already.
    ticks = sum(int(word) for word in lines[0].split()[1:8])
    count = sum(1 for line in lines[1:] if line.startswith("cpu"))
    return ticks * _SECOND // os.sysconf("SC_CLK_TCK"), count


def total_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_COLUMNS: Final = (
    *("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "", "", "", ""),
    *("tx_bytes", "tx_packets", "tx_errors", "tx_dropped"),
)


def interfaces(pid: int) -> Mapping[str, dict[str, int]]:
    """By name, in the process's network namespace, without loopback."""
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            return parse_interfaces(file.read())
    except OSError:
        return {}


def parse_interfaces(text: str) -> dict[str, dict[str, int]]:
    """/proc/net/dev."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        values = [int(word) for word in numbers.split()]
        if name.strip() != "lo":
            found[name.strip()] = {
                column: value for column, value in zip(_COLUMNS, values, strict=False) if column
            }
    return found
