"""Logger programs: ``binary:///path/to/program?key=value``.

The query's keys and values become the program's arguments. It finds the
container's stdout on descriptor 3, stderr on 4, and says on 5 that it is ready:
by closing it or writing a byte (``binary``), by a byte only (``binary-v2``).
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from urllib.parse import parse_qsl, unquote, urlsplit

from longshore.api.errors import Error
from longshore.shim.loop import READ, Loop, Promise

READY_SECONDS = 30.0
END_SECONDS = 1.0
GRACE_SECONDS = 12.0
# Above the descriptors that the program is promised, so that dup2 can't overwrite one.
_ABOVE = 10

# Registers a child; the promise of its wait status.
Adopt = Callable[[int], Promise[int]]


class Logger:
    """A running logger program."""

    def __init__(
        self, name: str, pid: int, ended: Promise[int], ready_pipe: int, *, needs_byte: bool
    ) -> None:
        self._name = name
        self._pid = pid
        self._ended = ended
        self._ready_pipe = ready_pipe
        self._needs_byte = needs_byte

    async def ready(self, loop: Loop) -> None:
        """Wait until the program says so. Raises `Error` when it doesn't within 30 s."""
        readable: Promise[None] = Promise()
        loop.watch(self._ready_pipe, READ, lambda _: readable.resolve(None))
        try:
            await loop.within(READY_SECONDS, readable)
            byte = os.read(self._ready_pipe, 1)
        except TimeoutError:
            raise Error(f"logger {self._name} is not ready after {READY_SECONDS:g} s") from None
        finally:
            loop.forget(self._ready_pipe)
            os.close(self._ready_pipe)
        if self._needs_byte and not byte:
            raise Error(f"logger {self._name} ended before it was ready")

    async def see_off(self, loop: Loop) -> None:
        """Let it end by itself (its pipes have), then SIGTERM, then, after a grace of 12 s, SIGKILL."""
        for number, patience in ((0, END_SECONDS), (signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 1.0)):
            if self._ended.done:
                return
            # Not reaped yet, so the pid is still its own.
            os.kill(self._pid, number)
            try:
                await loop.within(patience, self._ended)
            except TimeoutError:
                continue


def start_logger(uri: str, container: str, namespace: str, stdout: int, stderr: int, adopt: Adopt) -> Logger:
    """Start the program that reads `stdout` and `stderr`, which stay the caller's. Raises `Error`."""
    parts = urlsplit(uri)
    program = unquote(parts.path)
    arguments = [program]
    seen: set[str] = set()
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in seen:
            seen.add(key)
            arguments += [key, value]
    ready, report = os.pipe2(os.O_CLOEXEC)
    sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in (stdout, stderr, report)]
    os.close(report)
    try:
        pid = os.posix_spawn(
            program,
            arguments,
            {"CONTAINER_ID": container, "CONTAINER_NAMESPACE": namespace},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, 3 + n) for n, fd in enumerate(sources)],
            setsigdef=[signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
        )
    except OSError as error:
        os.close(ready)
        raise Error(f"failed to start binary logger: {program}: {error.strerror}") from None
    finally:
        for fd in sources:
            os.close(fd)
    return Logger(program, pid, adopt(pid), ready, needs_byte=parts.scheme == "binary-v2")
