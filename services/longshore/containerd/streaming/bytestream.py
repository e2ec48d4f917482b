"""Bytes over a stream, with credit: a sender sends no more than its reader has said it will take.

The reader grants credit in WindowUpdates (64 KiB at a time), the sender spends
it in Data of at most 32 KiB and closes the stream at the end. This is how
archives travel to and from Transfer.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from longshore.api import errors
from longshore.api.types.transfer.streaming_pb2 import Data, WindowUpdate
from longshore.api.typeurls import type_name
from longshore.containerd.streaming.streams import Stream

WINDOW: Final = 64 << 10
LARGEST: Final = 32 << 10

Kind = TypeVar("Kind", bound=Message)


class ByteReader:
    """What a client sends as Data."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._granted = 0

    async def read(self) -> bytes:
        """Some bytes, b"" at the end. Raises InvalidArgument for a message that is no Data."""
        while True:
            if self._granted < WINDOW and not self._stream.ended:
                self._stream.send(WindowUpdate(update=WINDOW))
                self._granted += WINDOW
            message = await self._stream.receive()
            if message is None:
                return b""
            data = decoded(message, Data).data
            self._granted -= len(data)
            if data:
                return data


class ByteWriter:
    """Data for a client that grants credit."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._credit = 0

    async def write(self, data: bytes) -> None:
        """Returns when all of it is on its way. Raises Unavailable when the client takes no more."""
        rest = memoryview(data)
        while rest:
            while self._credit <= 0:
                self._credit += await self._more()
            piece = rest[: min(LARGEST, self._credit)]
            self._stream.send(Data(data=bytes(piece)))
            self._credit -= len(piece)
            rest = rest[len(piece) :]

    async def _more(self) -> int:
        message = await self._stream.receive()
        if message is None:
            raise errors.Unavailable(f'stream "{self._stream.id}": its reader is gone: unavailable')
        return decoded(message, WindowUpdate).update


def decoded(message: Any, kind: type[Kind]) -> Kind:
    """The message inside, which must be a `kind`. Raises InvalidArgument."""
    if type_name(message) != kind.DESCRIPTOR.full_name:
        raise errors.InvalidArgument(
            f"a {kind.DESCRIPTOR.name} is expected, not {message.type_url!r}: invalid argument"
        )
    try:
        return kind.FromString(message.value)
    except DecodeError:
        raise errors.InvalidArgument(f"malformed {kind.DESCRIPTOR.name}: invalid argument") from None
