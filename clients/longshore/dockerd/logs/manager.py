"""`Logs`: the containers' loggers, as the rest of dockerd asks for them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from longshore.api import errors
from longshore.dockerd.engine import Attachment, LogEntry, LogSource, StdioPaths
from longshore.dockerd.errors import ServerError
from longshore.dockerd.logs import options, plan, wire
from longshore.dockerd.logs.connection import Connection, connect
from longshore.dockerd.logs.reading import Reader, Span

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.dockerd.records import Container, LogConfig
    from longshore.zygote.client import Zygote

END_SECONDS: Final = 2.0
_PART: Final = 1 << 15
_WORKER: Final = "longshore.dockerd.logs.logger:start"
WARM: Final = ("longshore.dockerd.logs.logger",)
"""For dockerd's zygote, so that loggers begin warm."""


class Logs(LogSource):
    """One logger process per running container. Its folder, `<exec-root>/logs/<id>`, holds the FIFOs and its socket."""

    def __init__(self, config: Config, zygote: Zygote) -> None:
        self._config = config
        self._zygote = zygote

    def folder(self, container: Container) -> str:
        return f"{self._config.exec_root}/logs/{container.id}"

    def settle(self, asked: LogConfig) -> LogConfig:
        """At create: the driver and options of a new container. Raises InvalidArgument."""
        return options.settle(asked, self._config)

    async def open(self, container: Container) -> StdioPaths:
        made = plan.make(container, self._config, self.folder(container))
        await self._end(self.folder(container), kill=True)
        await asyncio.to_thread(_make_folder, made)
        container.log_path = made.reported_path
        await self._zygote.call(_WORKER, made.arguments())
        return made.stdio

    async def attach(self, container: Container) -> Attachment:
        return Attached(await self._connected(container, wire.ATTACH))

    async def read(
        self, container: Container, *, follow: bool, tail: int | None, since_ns: int = 0, until_ns: int = 0
    ) -> AsyncIterator[LogEntry]:
        span = Span(tail, since_ns, until_ns)
        async for entries in self.batches(container, follow=follow, span=span):
            for entry in entries:
                yield entry

    async def batches(
        self, container: Container, *, follow: bool, span: Span
    ) -> AsyncIterator[list[LogEntry]]:
        """As `read`, some hundred entries at a time: a long log costs a fraction."""
        made = plan.make(container, self._config, self.folder(container))
        if made.format is None:
            raise ServerError("configured logging driver does not support reading")
        # Asked before the files are opened: whatever is written afterwards, we are told of.
        watch = await self._watching(container) if follow else None
        try:
            reader = await asyncio.to_thread(Reader, made.path, made.format(), span, bounded=watch is None)
            with reader:
                # Rotations of before we opened the files: the new files are among those, and still open.
                if watch is not None:
                    watch.take_news(reader.add)
                while True:
                    while entries := await asyncio.to_thread(reader.more):
                        yield entries
                    if reader.ended or watch is None:
                        return
                    if not await watch.news(reader.add):
                        watch.close()
                        watch = None
                        reader.stop_here()  # complete; what comes now is the next run's
        finally:
            if watch is not None:
                watch.close()

    async def ended(self, container: Container) -> None:
        await self._end(self.folder(container), kill=False)

    async def remove(self, container: Container) -> None:
        await self._end(self.folder(container), kill=True)
        made = plan.make(container, self._config, self.folder(container))
        await asyncio.to_thread(_remove_files, made)

    async def keep_only(self, ids: Iterable[str]) -> None:
        """End the loggers of containers that aren't among `ids` (left by a dockerd that died in between)."""
        kept = set(ids)
        with suppress(FileNotFoundError):
            for name in await asyncio.to_thread(os.listdir, f"{self._config.exec_root}/logs"):
                if name not in kept:
                    await self._end(f"{self._config.exec_root}/logs/{name}", kill=True)

    async def running(self, container: Container) -> bool:
        """Whether the container has a logger that answers."""
        try:
            (await connect(self.folder(container))).close()
        except OSError:
            return False
        return True

    async def _connected(self, container: Container, request: int) -> Connection:
        try:
            connection = await connect(self.folder(container))
        except OSError:
            raise errors.FailedPrecondition(f"container {container.id} has no running logger") from None
        try:
            await connection.send(request)
            await connection.receive()
        except BaseException:
            connection.close()
            raise
        return connection

    async def _watching(self, container: Container) -> Connection | None:
        try:
            return await self._connected(container, wire.WATCH)
        except (errors.FailedPrecondition, ConnectionError):
            return None  # it doesn't run: what is recorded is all there will be

    async def _end(self, folder: str, *, kill: bool) -> None:
        """Ask the logger to end, wait until its log is complete. With `kill` it has no choice."""
        try:
            connection = await connect(folder)
        except OSError:
            return
        try:
            async with asyncio.timeout(END_SECONDS):
                await connection.send(wire.FINISH)
                await _done(connection)
        except TimeoutError:
            if kill:
                with suppress(ProcessLookupError):
                    os.kill(connection.pid, signal.SIGKILL)
                await _done(connection)
        except ConnectionError:
            return
        finally:
            connection.close()


async def _done(connection: Connection) -> None:
    with suppress(ConnectionError):
        while (frame := await connection.receive()) is not None:
            if frame[0] == wire.DONE:
                return


class Attached(Attachment):
    """A connection to a logger, as an Attachment."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        while (frame := await self._receive()) is not None:
            kind, data = frame
            if kind in wire.NAMES:
                yield wire.NAMES[kind], data
            elif kind == wire.DONE:
                return

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), _PART):
            await self._connection.send(wire.STDIN, data[start : start + _PART])

    async def close_stdin(self) -> None:
        """The task's own end of the FIFO is closed by Tasks.CloseIO, which the caller asks for afterwards."""
        with suppress(ConnectionError):
            await self._connection.send(wire.CLOSE_STDIN)

    async def close(self) -> None:
        self._connection.close()

    async def _receive(self) -> tuple[int, bytes] | None:
        try:
            return await self._connection.receive()
        except ConnectionError:
            return None


def _make_folder(made: plan.Plan) -> None:
    shutil.rmtree(made.folder, ignore_errors=True)
    os.makedirs(made.folder, 0o700)
    for path in made.fifos():
        os.mkfifo(path, 0o700)
    if made.path:
        os.makedirs(os.path.dirname(made.path), 0o710, exist_ok=True)


def _remove_files(made: plan.Plan) -> None:
    shutil.rmtree(made.folder, ignore_errors=True)
    if not made.path:
        return
    folder, name = os.path.split(made.path)
    with suppress(FileNotFoundError):
        for found in os.listdir(folder):
            if found.startswith(name):
                os.unlink(f"{folder}/{found}")
