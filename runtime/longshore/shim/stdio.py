"""A process' standard streams, from the client's paths and URIs to descriptors 0, 1 and 2.

The client chooses (empty: not attached). The scheme of stdout decides for
stdout and stderr:

    none, fifo://          a named pipe; a path that is no pipe is appended to
    file:///path           appended to, made if missing (0644, directories 0755)
    binary:///program?k=v  a logger program reads the process' own pipes (also binary-v2)

We keep both ends of each FIFO open: a reader that vanishes must not kill the
container, its data waits in the pipe, and a client that comes back opens the
same path. Only CloseIO makes stdin end.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from longshore.api.errors import Error
from longshore.shim.logger import Adopt, Logger, start_logger
from longshore.shim.loop import Loop, Promise
from longshore.shim.pump import Pump


class Streams(NamedTuple):
    """What the client asked for."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


class Owner(NamedTuple):
    """Whose streams they are: names for loggers, and the user who owns the process' pipes."""

    namespace: str
    container: str
    uid: int
    gid: int


class Stdio:
    """The streams of one process. Make it with `open_stdio`, end it with `close`."""

    def __init__(self, loop: Loop, owner: Owner) -> None:
        self._loop = loop
        self._owner = owner
        self._pumps: list[Pump] = []
        self._child = [-1, -1, -1]
        self._stdin_keeper = -1
        self._console_in = -1
        self._console_out = -1
        self._outputs = 0
        self._logger: Logger | None = None
        self.master = -1
        # Settled when all output of the process has been passed on.
        self.drained: Promise[None] = Promise()

    def child_fds(self) -> list[int]:
        """Descriptors for 0, 1 and 2 of the process; ours until `started`."""
        if -1 in self._child:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self._child = [null if fd < 0 else fd for fd in self._child]
        return self._child

    def started(self) -> None:
        """The process (or nobody) holds its descriptors by now: close ours, so that it alone makes them end."""
        for fd in set(self._child) - {-1}:
            os.close(fd)
        self._child = [-1, -1, -1]

    def attach(self, master: int) -> None:
        """Take over the master of the process' terminal."""
        self.master = master
        os.set_blocking(master, False)
        if self._console_in >= 0:
            source, self._console_in = self._console_in, -1
            self._pumps.append(Pump(self._loop, source, os.dup(master), _nothing, splice=False))
        sink, self._console_out = self._console_out, -1
        if sink < 0:
            # Read all the same, or the process would block on a full terminal.
            sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._pump_output(os.dup(master), sink, splice=False)

    def close_stdin(self) -> None:
        """Drop our own write end: stdin ends once the client has closed its own, too."""
        if self._stdin_keeper >= 0:
            os.close(self._stdin_keeper)
            self._stdin_keeper = -1

    async def close(self) -> None:
        """Stop copying, close everything, see a logger off (up to 13 s). Idempotent."""
        self.close_stdin()
        self.started()
        for pump in self._pumps:
            pump.stop()
        self._pumps = []
        for fd in (self.master, self._console_in, self._console_out):
            if fd >= 0:
                os.close(fd)
        self.master = self._console_in = self._console_out = -1
        self.drained.resolve(None)
        logger, self._logger = self._logger, None
        if logger is not None:
            await logger.see_off(self._loop)

    async def open(self, streams: Streams, adopt: Adopt) -> None:
        """Open what the client asked for; on an error `close` must follow."""
        if streams.stdin:
            self._open_stdin(_path(streams.stdin), terminal=streams.terminal)
        scheme = urlsplit(streams.stdout).scheme if "://" in streams.stdout else "fifo"
        if scheme in ("binary", "binary-v2"):
            await self._open_logger(streams, adopt)
        elif scheme in ("fifo", "file"):
            self._open_outputs(streams, scheme)
        else:
            raise Error(f"unknown STDIO scheme {scheme}")
        if not streams.terminal and not self._outputs:
            self.drained.resolve(None)

    def _open_stdin(self, path: str, *, terminal: bool) -> None:
        source = _open(path, os.O_RDONLY, "stdin")
        if not terminal:
            read, write = self._pipe()
            self._child[0] = read
            os.set_blocking(write, False)
            self._pumps.append(Pump(self._loop, source, write, _nothing, splice=_is_fifo(source)))
        else:
            self._console_in = source
        if _is_fifo(source):
            self._stdin_keeper = _open(path, os.O_WRONLY, "stdin")

    def _open_outputs(self, streams: Streams, scheme: str) -> None:
        both = [(1, streams.stdout)]
        if streams.stderr and not streams.terminal:
            # With file:// one file may serve both, also when stderr's own name says nothing of a file.
            same = scheme == "file" and not streams.stderr.startswith("file://")
            both.append((2, streams.stdout if same else streams.stderr))
        for number, target in both:
            if not target:
                continue
            sink = _open_file(_path(target)) if scheme == "file" else _open_output(_path(target))
            if streams.terminal:
                self._console_out = sink
                continue
            read, write = self._pipe()
            self._child[number] = write
            os.set_blocking(read, False)
            self._pump_output(read, sink, splice=_is_fifo(sink))

    async def _open_logger(self, streams: Streams, adopt: Adopt) -> None:
        out_read, out_write = self._pipe()
        err_read, err_write = self._pipe()
        self._child[2] = err_write
        if streams.terminal:
            os.set_blocking(out_write, False)
            self._console_out = out_write
        else:
            self._child[1] = out_write
        try:
            self._logger = start_logger(
                streams.stdout, self._owner.container, self._owner.namespace, out_read, err_read, adopt
            )
        finally:
            os.close(out_read)
            os.close(err_read)
        await self._logger.ready(self._loop)

    def _pump_output(self, source: int, sink: int, *, splice: bool) -> None:
        self._outputs += 1
        self._pumps.append(Pump(self._loop, source, sink, self._output_ended, splice=splice))

    def _output_ended(self) -> None:
        self._outputs -= 1
        if self._outputs == 0:
            self.drained.resolve(None)

    def _pipe(self) -> tuple[int, int]:
        read, write = os.pipe2(os.O_CLOEXEC)
        if self._owner.uid or self._owner.gid:
            os.fchown(read, self._owner.uid, self._owner.gid)
        return read, write


async def open_stdio(loop: Loop, streams: Streams, owner: Owner, adopt: Adopt) -> Stdio:
    """Open a process' streams. Raises `Error` or OSError with nothing left open."""
    stdio = Stdio(loop, owner)
    try:
        await stdio.open(streams, adopt)
    except BaseException:
        await stdio.close()
        raise
    return stdio


def _nothing() -> None:
    return None


def _path(target: str) -> str:
    return unquote(urlsplit(target).path) if "://" in target else target


def _is_fifo(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


def _open(path: str, flags: int, what: str) -> int:
    try:
        return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Error(f"failed to open {what}: open {path}: {(error.strerror or '').lower()}") from None


def _open_output(path: str) -> int:
    """A FIFO with both its ends (never blocks, never breaks), or a file to append to."""
    fd = _open(path, os.O_RDWR, "output")
    if _is_fifo(fd):
        return fd
    os.close(fd)
    return _open(path, os.O_WRONLY | os.O_APPEND, "output")


def _open_file(path: str) -> int:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
