"""memory: limits, swap, OOM; usage."""

from __future__ import annotations

from longshore.linux import files
from longshore.linux.cgroup import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EBUSY = 16
_LIMIT = "memory.limit_in_bytes"
_SWAP = "memory.memsw.limit_in_bytes"


def v1(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """What to write into a v1 memory cgroup; limit and swap in `set_limits`, whose order depends on the old ones."""
    memory = resources.get("memory") or {}
    writes = []
    if memory.get("reservation"):
        writes.append(("memory.soft_limit_in_bytes", str(memory["reservation"])))
    if memory.get("kernelTCP"):
        writes.append(("memory.kmem.tcp.limit_in_bytes", str(memory["kernelTCP"])))
    if memory.get("disableOOMKiller"):
        writes.append(("memory.oom_control", "1"))
    swappiness = memory.get("swappiness")
    if swappiness is not None:
        if not 0 <= swappiness <= 100:
            # Newer kernels know up to 200; the specification doesn't.
            raise ValueError(f"invalid memory swappiness value: {swappiness} (valid range is 0-100)")
        writes.append(("memory.swappiness", str(swappiness)))
    return writes


def limits(resources: dict[str, Any]) -> tuple[int, int]:
    """Limit and memory+swap; 0 for what isn't asked for."""
    memory = resources.get("memory") or {}
    return memory.get("limit") or 0, memory.get("swap") or 0


def set_limits(path: str, resources: dict[str, Any]) -> None:
    """Set limit and memory+swap of a v1 cgroup, keeping limit <= memory+swap at each step (else EINVAL)."""
    limit, swap = limits(resources)
    if limit == -1 and swap == 0:
        swap = -1  # unlimited memory with the old memory+swap limit would be refused
    if swap and limit:
        current = values.number(f"{path}/{_LIMIT}")
        if swap == -1 or current < swap:
            _write(path, _SWAP, swap)
            _write(path, _LIMIT, limit)
        else:
            _write(path, _LIMIT, limit)
            _write(path, _SWAP, swap)
    elif limit:
        _write(path, _LIMIT, limit)
    elif swap:
        _write(path, _SWAP, swap)


def _write(path: str, name: str, value: int) -> None:
    try:
        files.write_file(f"{path}/{name}", str(value))
    except FileNotFoundError:
        if name != _SWAP or value > 0:
            raise  # a kernel without swap accounting can't honour a swap limit
    except OSError as error:
        if error.errno != _EBUSY:
            raise
        usage = values.number(f"{path}/memory.usage_in_bytes")
        peak = values.number(f"{path}/memory.max_usage_in_bytes")
        message = f"unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})"
        raise ValueError(message) from error


def v2(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """What to write into a v2 cgroup; its swap limit excludes memory."""
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    writes = []
    if swap:
        writes.append(("memory.swap.max", _word(swap if swap < 0 else swap_only(swap, limit))))
    elif limit == -1:
        writes.append(("memory.swap.max", "max"))
    if limit:
        writes.append(("memory.max", _word(limit)))
    if memory.get("reservation"):
        writes.append(("memory.low", _word(memory["reservation"])))
    return writes


def swap_only(memory_and_swap: int, memory: int) -> int:
    """v2's swap limit from v1's memory+swap; ValueError when they contradict."""
    if memory <= 0:
        raise ValueError("unable to set swap limit without memory limit")
    if memory_and_swap < memory:
        raise ValueError("memory+swap limit should be >= memory limit")
    return memory_and_swap - memory


def _word(value: int) -> str:
    return "max" if value < 0 else str(value)


def _entry(path: str, name: str) -> dict[str, int]:
    prefix = f"{path}/{name}"
    if not values.text(prefix + ".usage_in_bytes"):
        return {"limit": 0, "failcnt": 0}
    return {
        "limit": values.number(prefix + ".limit_in_bytes"),
        "usage": values.number(prefix + ".usage_in_bytes"),
        "max": values.number(prefix + ".max_usage_in_bytes"),
        "failcnt": values.number(prefix + ".failcnt"),
    }


def stats_v1(path: str) -> dict[str, Any]:
    """Usage and limits in bytes."""
    raw = values.table(path + "/memory.stat")
    return {
        "cache": raw.get("cache", 0),
        "usage": _entry(path, "memory"),
        "swap": _entry(path, "memory.memsw"),
        "kernel": _entry(path, "memory.kmem"),
        "kernelTCP": _entry(path, "memory.kmem.tcp"),
        "raw": raw,
    }


def stats_v2(path: str) -> dict[str, Any]:
    """The same from a v2 cgroup; swap includes memory, as v1 counts it."""
    raw = values.table(path + "/memory.stat")
    events = values.table(path + "/memory.events")
    usage, limit = values.number(path + "/memory.current"), values.number(path + "/memory.max")
    swap, swap_limit = values.number(path + "/memory.swap.current"), values.number(path + "/memory.swap.max")
    none = {"limit": 0, "failcnt": 0}
    total = values.MAX if values.MAX in (limit, swap_limit) else limit + swap_limit
    return {
        "cache": raw.get("file", 0),
        "usage": {
            "limit": limit,
            "usage": usage,
            "max": values.number(path + "/memory.peak"),
            "failcnt": events.get("max", 0),
        },
        "swap": {"limit": total, "usage": usage + swap, "failcnt": 0},
        "kernel": none,
        "kernelTCP": none,
        "raw": raw,
    }


def oom_kills(path: str, version: int) -> int:
    """How many processes the OOM killer has ended in this cgroup."""
    name = "memory.oom_control" if version == 1 else "memory.events"
    return values.table(f"{path}/{name}").get("oom_kill", 0)
