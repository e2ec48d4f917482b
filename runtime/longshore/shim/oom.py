"""Out-of-memory events of a container's cgroup: an eventfd (v1), or memory.events (v2)."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from longshore.linux.cgroup.manager import Cgroup
from longshore.shim.loop import PRIORITY, READ, Loop


class OomWatch:
    """Calls `happened` at each event until `close`."""

    def __init__(self, loop: Loop, cgroup: Cgroup, happened: Callable[[], None]) -> None:
        """Raises OSError when the cgroup has no memory controller."""
        self._loop = loop
        self._cgroup = cgroup
        self._happened = happened
        self._kills = cgroup.oom_kills()
        if cgroup.version == 1:
            self._fd = cgroup.oom_event()
            loop.watch(self._fd, READ, self._event)
        else:
            # The kernel wakes pollers of this file with POLLPRI whenever a counter in it changes.
            self._fd = os.open(cgroup.paths[""] + "/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            loop.watch(self._fd, PRIORITY, self._changed)

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
        if os.path.exists(self._cgroup.paths["memory"]):
            self._happened()
        else:
            self.close()

    def _changed(self, events: int) -> None:
        try:
            os.pread(self._fd, 4096, 0)
            kills = self._cgroup.oom_kills()
        except OSError:
            self.close()
            return
        if kills > self._kills:
            self._kills = kills
            self._happened()
        elif events & select.EPOLLHUP:
            self.close()
