"""Children: who they are, and how they ended. The shim is parent or sub-reaper of all of them.

A process may end before the worker that started it has told us its pid. So
while such workers run, ends of unknown children are kept ("early exits"), and
`own` finds them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from longshore.api.errors import Error, NotFound
from longshore.shim.loop import Promise
from longshore.shim.workers import Workers


class Exit(NamedTuple):
    """`status` is the exit code, or 128 + signal; `at` is in ns since the epoch."""

    status: int
    at: int


class Reaper:
    """Call `reap` on every SIGCHLD."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._owned: dict[int, Callable[[Exit], None]] = {}
        self._adopted: dict[int, Promise[int]] = {}
        self._early: dict[int, Exit] = {}
        self._expecting = 0

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While a worker starts a process whose pid we don't know yet."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1
            if not self._expecting:
                self._early.clear()

    def own(self, pid: int, ended: Callable[[Exit], None]) -> None:
        """Call `ended` once with the process' exit; at once if that has happened already."""
        early = self._early.pop(pid, None)
        if early is not None and not _alive(pid):
            ended(early)
        else:
            self._owned[pid] = ended

    def adopt(self, pid: int) -> Promise[int]:
        """The wait status of a direct child that was started just now."""
        ended: Promise[int] = Promise()
        self._adopted[pid] = ended
        return ended

    def signal(self, pid: int, number: int) -> None:
        """Signal an owned process. Raises NotFound when it has ended, whether or not we reaped it yet."""
        if pid not in self._owned:
            raise NotFound("process already finished: not found")
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            raise NotFound("process already finished: not found") from None
        except OSError as error:
            raise Error(f"signal {number} to {pid}: {error.strerror}") from None

    def reap(self) -> None:
        """Collect every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.ended(pid, status)

    def ended(self, pid: int, status: int) -> None:
        """A child has ended with this wait status."""
        if self._workers.reaped(pid):
            return
        if pid in self._adopted:
            self._adopted.pop(pid).resolve(status)
            return
        code = os.waitstatus_to_exitcode(status)
        ending = Exit(code if code >= 0 else 128 - code, time.time_ns())
        if pid in self._owned:
            self._owned.pop(pid)(ending)
        elif self._expecting:
            self._early[pid] = ending


def _alive(pid: int) -> bool:
    """Whether the pid, whose last holder we reaped, was given to a new process meanwhile."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
