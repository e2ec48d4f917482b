"""Figures of a cgroup, as ``runc events --stats`` has them. To add a controller, write its module and add its line."""

from __future__ import annotations

from longshore.linux.cgroup import blkio, cpu, cpuset, memory, others, pids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def stats(paths: dict[str, str], version: int) -> dict[str, Any]:
    """Of a cgroup's directories, by controller: bytes, nanoseconds."""
    if version == 2:
        path = paths[""]
        return {
            "cpu": cpu.stats_v2(path),
            "cpuset": cpuset.stats(path),
            "memory": memory.stats_v2(path),
            "pids": pids.stats(path),
            "blkio": blkio.stats_v2(path),
            "hugetlb": others.hugetlb_stats(path, 2),
        }
    return {
        "cpu": cpu.stats_v1(paths.get("cpu", ""), paths.get("cpuacct", "")),
        "cpuset": cpuset.stats(paths["cpuset"]) if "cpuset" in paths else {},
        "memory": memory.stats_v1(paths["memory"]) if "memory" in paths else {},
        "pids": pids.stats(paths["pids"]) if "pids" in paths else {},
        "blkio": blkio.stats_v1(paths["blkio"]) if "blkio" in paths else {},
        "hugetlb": others.hugetlb_stats(paths.get("hugetlb", ""), 1),
    }
