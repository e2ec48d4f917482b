"""Setting limits: what each controller is told. To add one, write its module and add its line here."""

from __future__ import annotations

import os

from longshore.linux import files
from longshore.linux.cgroup import blkio, cpu, cpuset, devices, memory, others, pids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Writes = Callable[[dict[str, Any]], list[tuple[str, str]]]

WRITES_V1: tuple[tuple[str, Writes], ...] = (
    ("cpuset", cpuset.v1),
    ("memory", memory.v1),
    ("cpu", cpu.v1),
    ("pids", pids.v1),
    ("blkio", blkio.v1),
    ("hugetlb", others.hugetlb_v1),
    ("net_cls", others.net_cls_v1),
    ("net_prio", others.net_prio_v1),
    ("rdma", others.rdma),
)
WRITES_V2: tuple[Writes, ...] = (
    pids.v2,
    memory.v2,
    blkio.v2,
    cpu.v2,
    cpuset.v2,
    others.hugetlb_v2,
    others.rdma,
    others.unified,
)

_ENODEV = 19


def apply_v1(paths: dict[str, str], resources: dict[str, Any], device_rules: bool) -> None:
    """Set the limits given in the directories of their controllers; OSError (ENODEV) for one that isn't there.

    ValueError for a limit that can't be one.
    """
    if resources.get("unified"):
        raise ValueError("invalid configuration: cannot use unified on cgroup v1")
    if device_rules:
        for file, value in devices.v1(devices.rules(resources)):
            files.write_file(f"{_limiting(paths, 'devices')}/{file}", value)
    if any(memory.limits(resources)):
        memory.set_limits(_limiting(paths, "memory"), resources)
    for controller, writes in WRITES_V1:
        wanted = writes(resources)
        if wanted and controller == "blkio":
            wanted = blkio.v1(resources, set(os.listdir(_limiting(paths, controller))))
        for file, value in wanted:
            files.write_file(f"{_limiting(paths, controller)}/{file}", value)


def _limiting(paths: dict[str, str], controller: str) -> str:
    """The v1 directory of a controller that is asked for something: what isn't mounted can't be ignored."""
    if controller not in paths:
        raise OSError(_ENODEV, f"cannot set {controller} limit: container could not join or create cgroup")
    return paths[controller]


def apply_v2(path: str, resources: dict[str, Any], device_rules: bool) -> None:
    """Set the limits given in a v2 directory; OSError (ENODEV) if there is none ("")."""
    for writes in WRITES_V2:
        for file, value in writes(resources):
            if not path:
                raise OSError(_ENODEV, f"cannot set {file}: container could not join or create cgroup")
            files.write_file(f"{path}/{file}", value)
    if device_rules:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(devices.attach(fd, devices.rules(resources)))
        finally:
            os.close(fd)
