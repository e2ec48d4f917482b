"""Standard streams of a process in a container.

The *client* chooses them: it makes named pipes (or names a log URI), the shim
opens them. Both outputs of a process live in a pipe whose writers are the
shim's, so end of file comes when the process and its heirs are done.

Three choices: `Null` (nothing attached), `LogURI` ("file:///path" or
"binary:///logger?arg=value", written by the shim while no client is there),
and `Pipes` (we hold the other end).
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import asyncio

BLOCK = 64 << 10  # a pipe's capacity


@dataclass(frozen=True, slots=True)
class Null:
    """No streams: the process reads from and writes to /dev/null."""


@dataclass(frozen=True, slots=True)
class LogURI:
    """Both outputs go where the shim is told: ``file://`` appends, ``binary://`` starts a logger."""

    uri: str


@dataclass(frozen=True, slots=True)
class Pipes:
    """Named pipes for the streams that are true. With `terminal` both outputs come from stdout, as from a pty."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    terminal: bool = False


PIPE: Final = Pipes(stdin=True)
"""All three streams on pipes."""

IO: TypeAlias = Null | LogURI | Pipes


@dataclass(frozen=True, slots=True)
class Paths:
    """What goes into a request: a path or URI for each stream, "" for none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False

    def streams(self) -> list[str]:
        return [path for path in (self.stdin, self.stdout, self.stderr) if path]


def _running_loop() -> asyncio.AbstractEventLoop:
    import asyncio  # whoever has one has it; without one nobody waits for it

    return asyncio.get_running_loop()


_Add: TypeAlias = Callable[..., Any]
_Remove: TypeAlias = Callable[[int], bool]


class _End:
    """Our end of a pipe, in the loop only while somebody waits for it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = _running_loop()
        self._waiting: asyncio.Future[None] | None = None

    async def _ready(self, add: _Add, remove: _Remove) -> None:
        """Wait until the loop calls back for the descriptor, or it is closed."""
        fd, self._waiting = self._fd, self._loop.create_future()
        add(fd, _set, self._waiting)
        try:
            await self._waiting
        finally:
            if self._fd == fd:  # after a close the number may be another file's
                remove(fd)

    def _close(self, remove: _Remove) -> None:
        if self._fd >= 0:
            remove(self._fd)
            os.close(self._fd)
            self._fd = -1
            if self._waiting is not None:
                _set(self._waiting)


class Reader(_End):
    """The reading end of a pipe. Iterate it for blocks as they come; `read` takes all up to end of file."""

    def fileno(self) -> int:
        return self._fd

    async def read_block(self, size: int = BLOCK) -> bytes:
        """What is there, at least one byte; b"" at end of file (or after `close`)."""
        while self._fd >= 0:
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
        return b""

    async def read(self) -> bytes:
        return b"".join([block async for block in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while block := await self.read_block():
            yield block

    def close(self) -> None:
        self._close(self._loop.remove_reader)


class Writer(_End):
    """The writing end of a process's stdin."""

    def __init__(self, fd: int, on_close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(fd)
        self._on_close = on_close

    async def write(self, data: bytes) -> None:
        """Write all of it, waiting while the pipe is full. Raises BrokenPipeError when the process is gone."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                raise BrokenPipeError("stdin is closed")
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)

    @property
    def closed(self) -> bool:
        return self._fd < 0

    async def close(self) -> None:
        """Let the process read end of file: we close our end, and have the shim close the one it keeps."""
        if self._fd >= 0:
            self.abandon()
            await self._on_close()

    def abandon(self) -> None:
        """Close our end only."""
        self._close(self._loop.remove_writer)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Streams:
    """The pipes of one process: made before it exists, attached once the shim has opened its ends.

    The order matters. A reader that is opened before any writer exists reads
    end of file, so nobody reads before `attach`; and stdin opens for writing
    only when there is a reader, so until then we hold it read-write.
    """

    def __init__(self, directory: str, name: str, wanted: Pipes) -> None:
        os.makedirs(directory, mode=0o711, exist_ok=True)
        self._shared = directory
        self.directory = os.path.join(directory, os.urandom(6).hex())
        os.mkdir(self.directory, 0o700)
        self._fds: dict[str, int] = {}
        self.stdin: Writer | None = None
        self.stdout: Reader | None = None
        self.stderr: Reader | None = None
        wants = {
            "stdin": wanted.stdin,
            "stdout": wanted.stdout,
            "stderr": wanted.stderr and not wanted.terminal,
        }
        paths: dict[str, str] = {}
        self.paths = Paths()
        try:
            for stream in (stream for stream, want in wants.items() if want):
                paths[stream] = os.path.join(self.directory, f"{name}-{stream}")
                os.mkfifo(paths[stream], 0o700)
                self.paths = Paths(**paths, terminal=wanted.terminal)
                mode = os.O_RDWR if stream == "stdin" else os.O_RDONLY
                self._fds[stream] = os.open(paths[stream], mode | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def attach(self, close_stdin: Callable[[], Awaitable[None]]) -> None:
        """The shim has its ends open: streams may be used. `close_stdin` tells the shim to close its own."""
        if "stdin" in self._fds:
            # Write-only from now on, so that writing to a process that is gone fails instead of filling a pipe.
            held = self._fds.pop("stdin")
            try:
                fd = os.open(self.paths.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self.stdin = Writer(fd, close_stdin)
            finally:
                os.close(held)
        if "stdout" in self._fds:
            self.stdout = Reader(self._fds.pop("stdout"))
        if "stderr" in self._fds:
            self.stderr = Reader(self._fds.pop("stderr"))

    @classmethod
    def known(cls, paths: Paths, shared: str = "") -> Streams:
        """The pipes of a process that somebody else made, for whoever deletes it: only `close` does anything.

        `shared` is the folder of many processes' folders that goes with the last of them.
        """
        streams = cls.__new__(cls)
        streams.directory = os.path.dirname(paths.stdout or paths.stderr or paths.stdin)
        streams._shared = shared
        streams.paths = paths
        streams.stdin = streams.stdout = streams.stderr = None
        streams._fds = {}
        return streams

    @classmethod
    def existing(cls, paths: Paths, shared: str = "") -> Streams:
        """Likewise, but opened; `attach` makes them usable."""
        streams = cls.known(paths, shared)
        try:
            for stream in ("stdin", "stdout", "stderr"):
                path = getattr(paths, stream)
                if _is_pipe(path):
                    mode = os.O_RDWR if stream == "stdin" else os.O_RDONLY
                    streams._fds[stream] = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            streams.release()
            raise
        return streams

    def close(self) -> None:
        """Close our ends and remove the pipes."""
        self.release()
        for path in (self.paths.stdin, self.paths.stdout, self.paths.stderr):
            if _is_pipe(path):
                with suppress(OSError):
                    os.unlink(path)
        with suppress(OSError):  # not empty: then it isn't ours
            os.rmdir(self.directory)
        if self._shared:
            with suppress(OSError):  # the last one out; others may be using it
                os.rmdir(self._shared)

    def release(self) -> None:
        """Close our ends; whoever knows the paths can attach later."""
        if self.stdin is not None:
            self.stdin.abandon()
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _is_pipe(path: str) -> bool:
    """False for "" and for a URL of a log, too."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def open_streams(io: IO, directory: str, name: str) -> tuple[Paths, Streams | None]:
    """What to send for this choice of IO, and our ends of it."""
    match io:
        case Null():
            return Paths(), None
        case LogURI(uri):
            return Paths(stdout=uri, stderr=uri), None
        case Pipes():
            streams = Streams(directory, name, io)
            return streams.paths, streams
