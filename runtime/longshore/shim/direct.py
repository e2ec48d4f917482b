"""What the shim does itself, without a worker: start and delete of a container made by our own runtime.

A fork costs more than both verbs together. They are a few system calls each
that don't wait: start opens a FIFO and the loop watches another, delete removes
empty directories. Whatever is not that simple (hooks, a frozen cgroup, processes
left in it) is left to a worker, which finds what is already done done.
"""

from __future__ import annotations

import os

from longshore.linux.cgroup.manager import Cgroup
from longshore.oci import errors, state
from longshore.oci import start as starting
from longshore.shim.library import Worded
from longshore.shim.loop import READ, Loop, Promise


class Direct:
    """A container that its state `directory` and its `cgroup` (as its runtime made it) describe completely."""

    def __init__(self, loop: Loop, directory: str, cgroup: Cgroup) -> None:
        self._loop = loop
        self._directory = directory
        self._cgroup = cgroup

    def startable(self) -> bool:
        """Whether `start` can do it; else a worker finds the words for why not."""
        return not self._cgroup.frozen()

    async def start(self) -> None:
        """Let init go; returns when it has executed. Raises RuntimeFailure."""
        with Worded("start"):
            report = starting.let_go(self._directory)
            try:
                failure = await self._ended(report)
            finally:
                self._loop.forget(report)
                os.close(report)
            starting.forget_fifo(self._directory)
            if failure:
                raise errors.StartFailed(failure)

    def _ended(self, report: int) -> Promise[str]:
        """What init wrote before its end of the FIFO closed."""
        said = bytearray()
        ended: Promise[str] = Promise()

        def readable(_: int) -> None:
            try:
                while part := os.read(report, 4096):
                    said.extend(part)
            except BlockingIOError:
                return
            ended.resolve(said.decode(errors="surrogateescape"))

        self._loop.watch(report, READ, readable)
        return ended

    def delete(self) -> bool:
        """Remove cgroup and state of an ended container; False if something in there must be waited for."""
        with Worded("delete"):
            if not self._cgroup.delete_empty():
                return False
            state.remove_directory(self._directory)
        return True
