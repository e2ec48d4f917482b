"""Scheduler, I/O priority and personality of a process, set just before it becomes its user."""

from __future__ import annotations

import os

from longshore.linux import libc
from longshore.oci.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}
_ATTRIBUTES_SIZE = 48


class Tuning:
    """Checked and packed by the runtime, applied by the process. InvalidConfig on unknown names."""

    def __init__(self, process: dict[str, Any], personality: dict[str, Any] | None) -> None:
        self._scheduler = _scheduler(process.get("scheduler") or {})
        self._io = _io_priority(process.get("ioPriority") or {})
        self._domain: int | None = None
        if personality:
            if personality.get("domain") not in DOMAINS or personality.get("flags"):
                raise InvalidConfig(f"personality {personality} is not supported")
            self._domain = DOMAINS[personality["domain"]]

    def apply(self) -> None:
        """Set what was asked for, on this process."""
        if self._scheduler:
            libc.call("sched_setattr", 0, self._scheduler, 0, path="scheduler")
        if self._io is not None:
            libc.call("ioprio_set", 1, 0, self._io, path="ioPriority")
        if self._domain is not None:
            libc.call("personality", self._domain, path="personality")


class Affinity:
    """process.execCPUAffinity: the CPUs of an exec before and after it joins the container's cgroup."""

    def __init__(self, process: dict[str, Any]) -> None:
        wanted = process.get("execCPUAffinity") or {}
        self._initial = cpu_list(wanted.get("initial") or "")
        self._final = cpu_list(wanted.get("final") or "")

    def first(self) -> None:
        """Before the cgroup is joined."""
        if self._initial:
            os.sched_setaffinity(0, self._initial)

    def then(self) -> None:
        """After it was."""
        if self._final:
            os.sched_setaffinity(0, self._final)


def cpu_list(text: str) -> set[int]:
    """``0-2,5`` as numbers; InvalidConfig."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) > 65535:
            raise InvalidConfig(f"invalid execCPUAffinity: {text!r}")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _scheduler(wanted: dict[str, Any]) -> bytes:
    if not wanted:
        return b""
    if wanted.get("policy") not in POLICIES:
        raise InvalidConfig(f"invalid scheduler policy: {wanted.get('policy')}")
    flags = 0
    for name in wanted.get("flags") or ():
        if name not in SCHEDULER_FLAGS:
            raise InvalidConfig(f"invalid scheduler flag: {name}")
        flags |= SCHEDULER_FLAGS[name]
    nice, priority = int(wanted.get("nice") or 0), int(wanted.get("priority") or 0)
    packed = _ATTRIBUTES_SIZE.to_bytes(4, "little") + POLICIES[wanted["policy"]].to_bytes(4, "little")
    packed += flags.to_bytes(8, "little") + nice.to_bytes(4, "little", signed=True)
    packed += priority.to_bytes(4, "little", signed=True)
    for key in ("runtime", "deadline", "period"):
        packed += int(wanted.get(key) or 0).to_bytes(8, "little")
    return packed


def _io_priority(wanted: dict[str, Any]) -> int | None:
    if not wanted:
        return None
    if wanted.get("class") not in IO_CLASSES:
        raise InvalidConfig(f"invalid ioPriority.Class: {wanted.get('class')}")
    return IO_CLASSES[wanted["class"]] << 13 | int(wanted.get("priority") or 0)
