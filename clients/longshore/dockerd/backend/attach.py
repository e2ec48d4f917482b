"""A client's connection and a container's streams, joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from longshore.dockerd.backend import detach
from longshore.dockerd.backend.frames import framing
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.engine import Attachment
from longshore.dockerd.errors import Conflict

ALL: Final = frozenset(("stdout", "stderr"))


class Connection(Protocol):
    """What of http.Hijacked is needed here; a websocket has it, too."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...


class Streams(Protocol):
    """What of engine.Attachment is needed here; the pipes of an exec have it, too."""

    def output(self) -> AsyncIterator[tuple[str, bytes]]: ...

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...


class Wishes(NamedTuple):
    """`outputs`: of stdout and stderr, what the client wants to see."""

    stdin: bool
    outputs: frozenset[str]
    terminal: bool
    framed: bool
    """Whether the outputs travel in frames; without, they are one stream."""
    keys: bytes = b""
    """That detach, with a terminal; b"" for none."""
    closes_stdin: bool = True
    """The end of the client's input is the end of the process's; otherwise it ends this attachment."""


async def join(connection: Connection, streams: Streams, wishes: Wishes) -> bool:
    """Until the output ends or the client leaves; True if it left by the detach keys."""
    pump = asyncio.create_task(_output(connection, streams, wishes))
    tasks: list[asyncio.Task[bool]] = [pump]
    if wishes.stdin:
        tasks.append(asyncio.create_task(_input(connection, streams, wishes)))
    else:
        tasks.append(asyncio.create_task(_until_gone(connection)))
    try:
        while pump in tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                tasks.remove(task)
                if task is not pump and _ends(task, wishes):
                    return _detached(task)
                if task is not pump:  # the end of its input; it may still leave
                    tasks.append(asyncio.create_task(_until_gone(connection)))
        return False
    finally:
        for task in (pump, *tasks):
            task.cancel()
        await asyncio.gather(pump, *tasks, return_exceptions=True)


def _ends(task: asyncio.Task[bool], wishes: Wishes) -> bool:
    """Whether the end of the input is the end of all."""
    return task.exception() is not None or _detached(task) or not (wishes.closes_stdin or not wishes.stdin)


def _detached(task: asyncio.Task[bool]) -> bool:
    return task.exception() is None and task.result()


async def _output(connection: Connection, streams: Streams, wishes: Wishes) -> bool:
    framed = framing(not wishes.framed)
    async for stream, data in streams.output():
        if stream in wishes.outputs:
            await connection.write(framed(stream, data))
    return False


async def _input(connection: Connection, streams: Streams, wishes: Wishes) -> bool:
    """True when the detach keys came. ConnectionError when the client is gone."""
    watcher = detach.Watcher(wishes.keys) if wishes.keys and wishes.terminal else None
    try:
        while data := await connection.read():
            detached = False
            if watcher is not None:
                data, detached = watcher.feed(data)
            with suppress(BrokenPipeError):
                if data:
                    await streams.write(data)
            if detached:
                return True
        if watcher is not None and (rest := watcher.rest()):
            await streams.write(rest)
    finally:
        if wishes.closes_stdin:
            await streams.close_stdin()
    return False


async def _until_gone(connection: Connection) -> bool:
    """Input that nobody wants is dropped; raises ConnectionError when the client is gone."""
    while await connection.read():
        pass
    gone = getattr(connection, "gone", asyncio.get_running_loop().create_future)
    await gone()
    raise ConnectionResetError("the client left")


class Attaching:
    """Attachments to containers: of those that run, and of those that are about to."""

    def __init__(self, parts: Parts, close_io: Callable[[str], Awaitable[None]]) -> None:
        self._parts, self._close_io = parts, close_io

    def check(self, live: Live) -> None:
        """Raises Conflict, in the original's words."""
        status = live.record.state.status
        if status == "paused":
            raise Conflict(f"container {live.id} is paused, unpause the container before attach")
        if status == "restarting":
            raise Conflict(f"container {live.id} is restarting, wait until the container is running")

    def reserve(self, live: Live) -> asyncio.Future[Attachment | None]:
        """A place among those who get the stream: now if it runs, else when it is started (None: it wasn't)."""
        future: asyncio.Future[Attachment | None] = asyncio.get_running_loop().create_future()
        live.attaching.add(future)
        future.add_done_callback(live.attaching.discard)
        if live.has_process:
            task = asyncio.ensure_future(self._now(live, future))
            future.add_done_callback(lambda _: task.done() or task.cancel() if future.cancelled() else None)
        return future

    async def _now(self, live: Live, future: asyncio.Future[Attachment | None]) -> None:
        try:
            attachment: Attachment | None = await self._parts.logs.attach(live.record)
        except Exception:
            attachment = None  # it has just ended
        if not future.done():
            future.set_result(attachment)
        elif attachment is not None:
            await attachment.close()

    async def serve(
        self,
        live: Live,
        connection: Connection,
        reserved: asyncio.Future[Attachment | None],
        wishes: Wishes,
    ) -> None:
        """Wait for the stream if need be, then join."""
        self._parts.publish(live, "attach")
        attachment = await self._wait(connection, reserved)
        if attachment is None:
            return
        streams = _Closing(live, attachment, self._close_io)
        try:
            with suppress(ConnectionError):
                if await join(connection, streams, wishes):
                    self._parts.publish(live, "detach")
        finally:
            await attachment.close()

    async def _wait(
        self, connection: Connection, reserved: asyncio.Future[Attachment | None]
    ) -> Attachment | None:
        gone = getattr(connection, "gone", None)
        if reserved.done() or gone is None:
            return await reserved
        watching = asyncio.ensure_future(gone())
        try:
            await asyncio.wait((reserved, watching), return_when=asyncio.FIRST_COMPLETED)
            return reserved.result() if reserved.done() else None
        finally:
            watching.cancel()
            if not reserved.done():
                reserved.cancel()


class _Closing:
    """An attachment whose end of input also closes what the shim keeps open."""

    def __init__(
        self, live: Live, attachment: Attachment, close_io: Callable[[str], Awaitable[None]]
    ) -> None:
        self.output, self.write = attachment.output, attachment.write
        self._live, self._attachment, self._close_io = live, attachment, close_io

    async def close_stdin(self) -> None:
        """Not before the shim has the pipe open: what is in a pipe that nobody holds is lost."""
        async with self._live.lock:
            await self._attachment.close_stdin()
            if self._live.has_process:
                await self._close_io(self._live.id)
