"""`Logs`: the containers' loggers, as the rest of dockerd asks for them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from longshore.api import errors
from longshore.dockerd.ends import Ends
from longshore.dockerd.engine import Attachment, LogEntry, LogSource, StdioPaths
from longshore.dockerd.logs import options, plan, wire
from longshore.dockerd.logs.connection import Connection, connect
from longshore.dockerd.logs.reading import Reader, Span
from longshore.zygote.client import WorkerDied, WorkerError

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.dockerd.records import Container, LogConfig
    from longshore.zygote.client import Zygote

log = structlog.get_logger(__name__)

T = TypeVar("T")

END_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = 1.0
"""Before a logger is replaced whose predecessor was already replaced."""
_LOOK_SECONDS: Final = 0.02
_PART: Final = 1 << 15
_WORKER: Final = "longshore.dockerd.logs.logger:start"
WARM: Final = ("longshore.dockerd.logs.logger",)
"""For dockerd's zygote, so that loggers begin warm."""


class Logs(LogSource):
    """One logger process per running container. Its folder, `<exec-root>/logs/<id>`, holds the FIFOs and its socket.

    A logger that was killed is replaced: the pipes keep what is printed in between.
    """

    def __init__(self, config: Config, zygote: Zygote) -> None:
        self._config = config
        self._zygote = zygote
        self._ends = Ends()
        self._replacing: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """The loggers go on; they aren't watched any more."""
        self._ends.close()
        for id in list(self._replacing):
            await self._let_be(id)

    def folder(self, container: Container) -> str:
        return f"{self._config.exec_root}/logs/{container.id}"

    def settle(self, asked: LogConfig) -> LogConfig:
        """At create: the driver and options of a new container. Raises InvalidArgument."""
        return options.settle(asked, self._config)

    async def open(self, container: Container) -> StdioPaths:
        made = plan.make(container, self._config, self.folder(container))
        await self._let_be(container.id)
        await self._end(self.folder(container), kill=True)
        await asyncio.to_thread(_make_folder, made)
        container.log_path = made.reported_path
        answer = await self._zygote.call(_WORKER, made.arguments())
        self._keep(container, answer["pid"])
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
    ) -> AsyncGenerator[list[LogEntry], None]:
        """As `read`, some hundred entries at a time: a long log costs a fraction."""
        made = plan.make(container, self._config, self.folder(container))
        if made.format is None:
            raise errors.Unimplemented("configured logging driver does not support reading")
        # Asked before the files are opened: whatever is written afterwards, we are told of.
        watch = await self._watching(container) if follow else None
        try:
            opening = partial(Reader, made.path, made.format(), span, bounded=watch is None)
            with await _in_thread(opening, otherwise=Reader.close) as reader:
                # Rotations of before we opened the files: the new files are among those, and still open.
                if watch is not None:
                    watch.take_news(reader.add)
                while True:
                    while entries := await _in_thread(reader.more):
                        yield entries
                    if reader.ended or watch is None:
                        return
                    if not await watch.news(reader.add):
                        watch.close()
                        watch = await self._watching_again(container) if watch.cut else None
                        if watch is None:
                            reader.stop_here()  # complete; what comes now is the next run's
        finally:
            if watch is not None:
                watch.close()

    async def ended(self, container: Container) -> None:
        await self._let_be(container.id)
        await self._end(self.folder(container), kill=False)

    async def remove(self, container: Container) -> None:
        await self._let_be(container.id)
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

    async def take_over(self, containers: Iterable[Container]) -> None:
        """Of containers that run: their loggers were started by a dockerd before us."""
        for container in containers:
            try:
                connection = await connect(self.folder(container))
            except OSError:
                self._lost(container)
                continue
            self._keep(container, connection.pid)
            connection.close()

    def _keep(self, container: Container, pid: int) -> None:
        self._ends.expect(container.id, pid, partial(self._lost, container))

    async def _let_be(self, id: str) -> None:
        """From here on its logger may end."""
        self._ends.forget(id)
        task = self._replacing.pop(id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _lost(self, container: Container, pause: float = 0) -> None:
        socket = f"{self.folder(container)}/{wire.SOCKET}"
        # One that ends because the container's streams did takes its socket away first.
        if os.path.exists(socket) and container.id not in self._replacing:
            self._replacing[container.id] = asyncio.ensure_future(self._replace(container, socket, pause))

    async def _replace(self, container: Container, socket: str, pause: float) -> None:
        log.warning("the logger of a container was killed: another one goes on", id=container.id)
        try:
            await asyncio.sleep(pause)
            with suppress(FileNotFoundError):
                os.unlink(socket)
            made = plan.make(container, self._config, self.folder(container))
            answer = await self._zygote.call(_WORKER, made.arguments())
        except (WorkerError, WorkerDied) as error:
            log.error("nobody reads what a container prints", id=container.id, error=str(error))
            return
        finally:
            self._replacing.pop(container.id, None)  # before we watch: a death meanwhile is told of at once
        again = partial(self._lost, container, _AGAIN_SECONDS)
        self._ends.expect(container.id, answer["pid"], again)

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

    async def _watching_again(self, container: Container) -> Connection | None:
        """The successor of a logger that was killed; None when there is none."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            if (watch := await self._watching(container)) is not None:
                return watch
            if not self._replaces(container):
                return None
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    def _replaces(self, container: Container) -> bool:
        return os.path.exists(f"{self.folder(container)}/{wire.SOCKET}") or container.id in self._replacing

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


async def _in_thread(work: Callable[[], T], *, otherwise: Callable[[T], object] | None = None) -> T:
    """The result of `work` in a thread, to its end: who is cancelled is so when the thread has let go of what it uses.

    `otherwise` is given the result then.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if otherwise is not None:
            running.add_done_callback(partial(_dispose, otherwise))
        await asyncio.wait((running,))
        raise


def _dispose(otherwise: Callable[[T], object], done: asyncio.Future[T]) -> None:
    if not done.cancelled() and done.exception() is None:
        otherwise(done.result())


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
