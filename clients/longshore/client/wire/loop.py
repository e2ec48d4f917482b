"""Carrying bytes on asyncio's event loop."""

from __future__ import annotations

import asyncio
from time import monotonic

from longshore.client.wire.channel import Carrier, Channel
from longshore.client.wire.http2 import Stream


def channel(path: str) -> Channel:
    """A channel for the tasks of one event loop."""
    return Channel(path, _connect)


async def _connect(path: str) -> Carrier:
    _, carrier = await asyncio.get_running_loop().create_unix_connection(_Loop, path)
    return carrier


class _Loop(Carrier, asyncio.Protocol):
    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[Stream | None, list[asyncio.Future[None]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.conversation.receive(data)
        self._wake(None)
        self.flush()
        if self.conversation.lost or (self.conversation.leaving and self.conversation.idle):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.conversation.lose(f"connection lost: {exc}" if exc else "the daemon closed the connection")
        self._wake(None)
        self.flush()

    def flush(self) -> None:
        data = self.conversation.take()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
        for stream in self.conversation.changed():
            self._wake(stream)

    def _wake(self, stream: Stream | None) -> None:
        for waiting in self._waiting.pop(stream, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def wait(self, stream: Stream | None, until: float | None) -> None:
        if self.conversation.lost or (stream is not None and stream.status is not None):
            return
        waiting: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(stream, []).append(waiting)
        timer = None
        if until is not None:
            timer = self._loop.call_later(max(0.0, until - monotonic()), _expire, waiting)
        try:
            await waiting
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        self.conversation.lose("the connection was closed")
        self.flush()
        if self._transport is not None:
            self._transport.close()


def _expire(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError())
