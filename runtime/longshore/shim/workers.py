"""Forked workers: everything that may block happens in one, and is answered on a pipe.

A worker is a fork of the shim, so its work is a closure and needs no
serialisation; only the answer is (marshal: plain values). Processes that it
starts and leaves behind become the shim's children, by the sub-reaper rule.
"""

from __future__ import annotations

import errno
import marshal
import os
import signal
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from longshore.api.errors import BY_CODE, Error
from longshore.linux import processes
from longshore.shim.loop import READ, Loop, Promise

_LENGTH = struct.Struct("=I")
_RESTORED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


# The kind of a failure without an answer.
WORKER_DIED = "WorkerDied"


class WorkerFailed(Error):
    """What the function raised, when it was none of our own errors: `kind` is the class name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Job(NamedTuple):
    pipe: int
    received: bytearray
    outcome: Promise[Any]


class Workers:
    """The workers of one shim. Whoever reaps children tells `reaped`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._jobs: dict[int, _Job] = {}

    @property
    def busy(self) -> bool:
        """Whether a worker is still to be reaped."""
        return bool(self._jobs)

    def run(
        self,
        function: Callable[[], Any],
        *,
        stdio: Sequence[int] = (),
        keep: Sequence[int] = (),
    ) -> Promise[Any]:
        """Fork and run `function`; its result (None, bool, int, str, bytes, list, dict).

        `stdio` become descriptors 0, 1, 2 of the worker, `keep` stay open
        under their numbers; all others are closed before the function runs.
        Rejected with the function's own error, or WorkerFailed.
        """
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except BaseException:
            os.close(read)
            os.close(write)
            raise
        if pid == 0:
            _child(function, write, stdio, keep)
        os.close(write)
        os.set_blocking(read, False)
        job = _Job(read, bytearray(), Promise())
        self._jobs[pid] = job
        self._loop.watch(read, READ, lambda _: self._readable(pid))
        return job.outcome

    def reaped(self, pid: int) -> bool:
        """A child has ended: True if it was a worker (one without an answer has failed)."""
        if pid not in self._jobs:
            return False
        self._readable(pid)
        self._finish(pid)
        return True

    def _readable(self, pid: int) -> None:
        job = self._jobs[pid]
        if job.outcome.done:
            return
        try:
            while data := os.read(job.pipe, 65536):
                job.received.extend(data)
        except BlockingIOError:
            data = b"?"
        if len(job.received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(job.received)
            if len(job.received) >= _LENGTH.size + length:
                self._close(job)
                _settle(job.outcome, marshal.loads(job.received[_LENGTH.size :]))
                return
        if not data:
            self._close(job)
            job.outcome.reject(WorkerFailed(WORKER_DIED, "the worker ended without an answer"))

    def _finish(self, pid: int) -> None:
        job = self._jobs.pop(pid)
        if not job.outcome.done:
            # A stray descendant holds the pipe: no end of file will come.
            self._close(job)
            job.outcome.reject(WorkerFailed(WORKER_DIED, "the worker ended without an answer"))

    def _close(self, job: _Job) -> None:
        self._loop.forget(job.pipe)
        os.close(job.pipe)


def _settle(outcome: Promise[Any], answer: tuple[Any, ...]) -> None:
    if len(answer) == 1:
        outcome.resolve(answer[0])
        return
    code, kind, message = answer
    outcome.reject(BY_CODE[code](message) if code else WorkerFailed(kind, message))


def _child(function: Callable[[], Any], pipe: int, stdio: Sequence[int], keep: Sequence[int]) -> NoReturn:
    """Never returns, whatever happens: a second copy of the loop must not run."""
    try:
        signal.set_wakeup_fd(-1)
        for number in _RESTORED:
            signal.signal(number, signal.SIG_DFL)
        processes.set_pdeathsig(signal.SIGKILL)
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        processes.close_fds_except([0, 1, 2, pipe, *keep])
        answer = _outcome(function)
        data = marshal.dumps(answer)
        _write(pipe, _LENGTH.pack(len(data)) + data)
    finally:
        os._exit(0)


def _outcome(function: Callable[[], Any]) -> tuple[Any, ...]:
    try:
        return (function(),)
    except Error as error:
        return (
            error.code if type(error) is BY_CODE.get(error.code) else 0,
            type(error).__name__,
            error.message,
        )
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "OSError")
        return (0, name, str(error))
    except BaseException as error:
        return (0, type(error).__name__, str(error) or type(error).__name__)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
