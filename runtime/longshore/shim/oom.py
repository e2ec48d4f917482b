"""Out-of-memory events of a container's cgroup: an eventfd (v1), or memory.events (v2).

A worker does what knows about cgroups (`arm`); the shim only waits on the
descriptor, and so never touches the memory that the cgroup code takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from longshore.linux import files
from longshore.shim.loop import PRIORITY, READ, Loop


def arm(event: int, paths: dict[str, str], version: int) -> str:
    """In a worker: have the kernel write to eventfd `event`; the file to look at when it did ("": cannot be told)."""
    if version == 2:
        return paths[""] + "/memory.events"
    path = paths.get("memory", "")
    if not path:
        return ""
    control = os.open(path + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    try:
        files.write_file(path + "/cgroup.event_control", f"{event} {control}")
    finally:
        os.close(control)
    return path + "/memory.oom_control"


class OomWatch:
    """Calls `happened` at each event until `close`. Takes over the eventfd that was armed."""

    def __init__(self, loop: Loop, event: int, file: str, happened: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = event
        self._file = file
        self._happened = happened
        self._kills = 0
        if file.endswith("/memory.events"):
            # v2: the kernel wakes pollers of the file itself, by POLLPRI, when a counter in it changes.
            os.close(event)
            self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            self._kills = oom_kills(os.pread(self._fd, 4096, 0))
            loop.watch(self._fd, PRIORITY, self._changed)
        else:
            loop.watch(event, READ, self._event)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _event(self, _: int) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return
        # The removal of the cgroup is signalled in the same way.
        if os.path.exists(self._file):
            self._happened()
        else:
            self.close()

    def _changed(self, _: int) -> None:
        try:
            kills = oom_kills(os.pread(self._fd, 4096, 0))
        except OSError:
            self.close()
            return
        if kills > self._kills:
            self._kills = kills
            self._happened()


def oom_kills(events: bytes) -> int:
    """The counter oom_kill of a memory.events file."""
    for line in events.splitlines():
        name, _, value = line.partition(b" ")
        if name == b"oom_kill":
            return int(value)
    return 0
