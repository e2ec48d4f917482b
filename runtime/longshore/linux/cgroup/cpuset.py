"""cpuset: which CPUs and memory nodes."""

from __future__ import annotations

import os

from longshore.linux import files
from longshore.linux.cgroup import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def v1(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """What to write (the same names in v1 and v2)."""
    cpu = resources.get("cpu") or {}
    return [(f"cpuset.{key}", cpu[key]) for key in ("cpus", "mems") if cpu.get(key)]


v2 = v1


_INHERITED = ("cpuset.cpus", "cpuset.mems")


def is_empty(path: str) -> bool:
    """Whether a v1 cpuset still lacks CPUs or nodes, so that nothing can join it (ENOSPC).

    Both count: whoever makes the same parent at this moment fills them one by one.
    """
    return not all(values.text(f"{path}/{name}") for name in _INHERITED)


def inherit(path: str) -> None:
    """Give a v1 cpuset without CPUs or nodes those of its parent: the kernel starts it empty."""
    for name in _INHERITED:
        if not values.text(f"{path}/{name}"):
            inherited = values.text(f"{os.path.dirname(path)}/{name}")
            if inherited:
                files.write_file(f"{path}/{name}", inherited)


def stats(path: str) -> dict[str, Any]:
    """The cpuset as lists of numbers."""
    found: dict[str, Any] = {"cpus": ranges(values.text(path + "/cpuset.cpus"))}
    found["mems"] = ranges(values.text(path + "/cpuset.mems"))
    names = (
        ("cpu_exclusive", "cpu_exclusive"),
        ("mem_hardwall", "mem_hardwall"),
        ("mem_exclusive", "mem_exclusive"),
        ("memory_migrate", "memory_migrate"),
        ("memory_spread_page", "memory_spread_page"),
        ("memory_spread_slab", "memory_spread_slab"),
        ("memory_pressure", "memory_pressure"),
        ("sched_load_balance", "sched_load_balance"),
        ("sched_relax_domain_level", "sched_relax_domain_level"),
    )
    found.update((key, values.number(f"{path}/cpuset.{file}")) for key, file in names)
    return found


def ranges(text: str) -> list[int]:
    """``0-2,7`` as [0, 1, 2, 7]."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first:
            numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
