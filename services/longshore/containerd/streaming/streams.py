"""Open streams: what a client opened by Streaming.Stream, and other services use by its name.

A stream carries messages (Any) both ways. What we send is queued without limit
here; whoever sends much keeps to a protocol of its own that bounds it
(`bytestream`) or drops what is of no use later (progress).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from longshore.api import errors
from longshore.api.typeurls import pack
from longshore.containerd.gc.collector import IsThere

# Messages of a client that nobody has taken yet; more stay in the transport, which slows the client down.
_INBOX: Final = 16

Key = tuple[str, str]


class Stream:
    """One end of an open stream. Used on the event loop, by one reader at a time."""

    def __init__(self, id: str, lease: str = "") -> None:
        self.id = id
        self.lease = lease
        self._inbox: asyncio.Queue[Any | None] = asyncio.Queue(_INBOX)
        self._outbox: asyncio.Queue[Any | errors.Error | None] = asyncio.Queue()
        self._ended = False  # the client is gone, or we have closed it
        self._drained = False

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def waiting(self) -> int:
        """How many of our messages have not gone out yet."""
        return self._outbox.qsize()

    async def receive(self) -> Any | None:
        """The client's next message; None when it sends no more, or is gone."""
        if self._drained:
            return None
        message = await self._inbox.get()
        self._drained = message is None
        return message

    def send(self, message: Message) -> None:
        """Queue a message for the client. Raises Unavailable when it is gone."""
        if self._ended:
            raise errors.Unavailable(f'stream "{self.id}" is closed: unavailable')
        self._outbox.put_nowait(message if isinstance(message, Any) else pack(message))

    def close(self) -> None:
        """End it from our side: the client gets what is queued, then the end. Harmless when repeated."""
        if not self._ended:
            self._ended = True
            self._outbox.put_nowait(None)

    # -- for the service that carries it --

    async def carry(self, requests: AsyncIterator[Any]) -> None:
        """Take the client's messages in, until it has no more."""
        try:
            async for message in requests:
                await self._inbox.put(message)
        except errors.Error as error:
            self._outbox.put_nowait(error)
        await self._inbox.put(None)

    async def outgoing(self) -> AsyncGenerator[Any, None]:
        """What goes to the client, until the stream is closed. Raises what `carry` could not read."""
        while (message := await self._outbox.get()) is not None:
            if isinstance(message, errors.Error):
                raise message
            yield message

    def abandon(self) -> None:
        """The client is gone: whoever reads hears of it, whoever writes is told."""
        self._ended = True
        while self._inbox.full():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)


class Streams:
    """All open streams, by namespace and the id that their clients chose."""

    def __init__(self) -> None:
        self._open: dict[Key, Stream] = {}

    def add(self, namespace: str, id: str, lease: str = "") -> Stream:
        """Register a new one, which ends when its lease does.

        Raises InvalidArgument without an id, AlreadyExists for one in use.
        """
        if not id:
            raise errors.InvalidArgument("stream id must not be empty: invalid argument")
        if (namespace, id) in self._open:
            raise errors.AlreadyExists(f'stream "{id}": already exists')
        stream = self._open[namespace, id] = Stream(id, lease)
        return stream

    def get(self, namespace: str, id: str) -> Stream:
        """Raises NotFound."""
        stream = self._open.get((namespace, id))
        if stream is None:
            raise errors.NotFound(f'stream "{id}": not found')
        return stream

    def remove(self, namespace: str, id: str) -> None:
        self._open.pop((namespace, id), None)

    async def release(self, is_there: IsThere) -> None:
        """Close those whose lease is gone."""
        for (namespace, _), stream in list(self._open.items()):
            if stream.lease and not is_there(namespace, stream.lease):
                stream.close()

    def close_all(self) -> None:
        """The daemon stops."""
        for stream in list(self._open.values()):
            stream.close()
