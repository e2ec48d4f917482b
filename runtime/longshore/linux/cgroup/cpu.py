"""cpu (and cpuacct): shares, quotas, real time, usage."""

from __future__ import annotations

from longshore.linux.cgroup import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TICKS = 100  # USER_HZ
_NANOSECONDS = 1_000_000_000
_LEAST, _MOST = 2, 262144  # shares that v1 knows


def weight(shares: int) -> int:
    """v1 shares (2..262144) as a v2 weight (1..10000); 0 stays 0: not set."""
    return 0 if shares == 0 else 1 + ((min(max(shares, 2), 262144) - 2) * 9999) // 262142


def v1(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """What to write into a v1 cpu cgroup."""
    cpu = resources.get("cpu") or {}
    shares = cpu.get("shares") or 0
    if shares and not _LEAST <= shares <= _MOST:
        # The kernel would take the nearest that it has, and say nothing.
        word, bound = ("minimum", _LEAST) if shares < _LEAST else ("maximum", _MOST)
        raise ValueError(f"the {word} allowed cpu-shares is {bound}")
    # Real time and periods before runtimes and quotas, which are checked against them.
    names = (
        ("shares", "cpu.shares"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
        ("burst", "cpu.cfs_burst_us"),
        ("idle", "cpu.idle"),
    )
    return [(file, str(cpu[key])) for key, file in names if cpu.get(key)]


def v2(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """What to write into a v2 cgroup."""
    cpu = resources.get("cpu") or {}
    writes = []
    if cpu.get("idle") is not None:
        writes.append(("cpu.idle", str(cpu["idle"])))
    if cpu.get("shares"):
        writes.append(("cpu.weight", str(weight(cpu["shares"]))))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        words = str(quota) if quota and quota > 0 else "max"
        writes.append(("cpu.max", f"{words} {period or 100000}"))
    if cpu.get("burst") is not None:
        writes.append(("cpu.max.burst", str(cpu["burst"])))
    return writes


def stats_v1(cpu: str, cpuacct: str) -> dict[str, Any]:
    """Usage in nanoseconds and throttling, from the two controllers' directories ("" where there is none)."""
    usage: dict[str, Any] = {"total": 0, "kernel": 0, "user": 0}
    if cpuacct:
        ticks = values.table(cpuacct + "/cpuacct.stat")
        usage = {
            "total": values.number(cpuacct + "/cpuacct.usage"),
            "percpu": _numbers(values.text(cpuacct + "/cpuacct.usage_percpu")),
            "kernel": ticks.get("system", 0) * _NANOSECONDS // _TICKS,
            "user": ticks.get("user", 0) * _NANOSECONDS // _TICKS,
        }
        by_cpu = [line.split() for line in values.text(cpuacct + "/cpuacct.usage_all").splitlines()[1:]]
        usage["percpu_user"] = [int(fields[1]) for fields in by_cpu if len(fields) > 2]
        usage["percpu_kernel"] = [int(fields[2]) for fields in by_cpu if len(fields) > 2]
    stat = values.table(cpu + "/cpu.stat") if cpu else {}
    return {"usage": usage, "throttling": _throttling(stat, "throttled_time", 1)}


def stats_v2(path: str) -> dict[str, Any]:
    """The same from a v2 cgroup; the kernel counts microseconds there."""
    stat = values.table(path + "/cpu.stat")
    usage = {
        "total": stat.get("usage_usec", 0) * 1000,
        "kernel": stat.get("system_usec", 0) * 1000,
        "user": stat.get("user_usec", 0) * 1000,
    }
    return {"usage": usage, "throttling": _throttling(stat, "throttled_usec", 1000)}


def _throttling(stat: dict[str, int], time: str, unit: int) -> dict[str, int]:
    found = {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": stat.get(time, 0) * unit,
    }
    return {key: value for key, value in found.items() if value}


def _numbers(line: str) -> list[int]:
    return [int(word) for word in line.split()]
