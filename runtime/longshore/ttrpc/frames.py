"""The ttrpc wire: bytes in, frames out. No socket in this file.

A frame is a header of ten bytes and up to 4 MiB of data:

    +----------------+----------------+------+-------+----------
    | length, u32 BE | stream, u32 BE | type | flags | data ...
    +----------------+----------------+------+-------+----------

    type 1 request    data = ttrpc.Request     client -> server, opens a stream
    type 2 response   data = ttrpc.Response    server -> client, ends it
    type 3 data       data = a message         either way, on a streaming call

    flag 0x1 remote closed   the sender will send no more on this stream
    flag 0x2 remote open     the sender will send more (streaming request)
    flag 0x4 no data         a data frame without a message

There is no handshake and no keep-alive. Clients use odd, strictly increasing
stream ids. A frame that announces more than 4 MiB is skipped, not a reason to
hang up: the receiver answers ResourceExhausted on its stream.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from longshore.api.errors import ResourceExhausted

MAX_DATA = 4 << 20

REQUEST = 1
RESPONSE = 2
DATA = 3

REMOTE_CLOSED = 0x1
REMOTE_OPEN = 0x2
NO_DATA = 0x4

_HEADER = struct.Struct(">IIBB")


class Frame(NamedTuple):
    """One frame. `oversize` is the length it announced when that is over `MAX_DATA`: its data was skipped."""

    stream: int
    kind: int
    flags: int
    data: bytes
    oversize: int = 0


def oversized(length: int) -> ResourceExhausted:
    """The error both ends give for a message of `length` bytes."""
    return ResourceExhausted(f"message length {length} exceed maximum message size of {MAX_DATA}")


def encode(frame: Frame) -> bytes:
    """A frame as bytes. Raises ResourceExhausted when its data is longer than the protocol allows."""
    stream, kind, flags, data, _ = frame
    if len(data) > MAX_DATA:
        raise oversized(len(data))
    return _HEADER.pack(len(data), stream, kind, flags) + data


class Decoder:
    """Cuts a byte stream into frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take received bytes; return the frames that they completed."""
        frames: list[Frame] = []
        self._buffer += data
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if self._skip:
            dropped = min(self._skip, len(buffer))
            del buffer[:dropped]
            self._skip -= dropped
        if self._skip or len(buffer) < _HEADER.size:
            return None
        length, stream, kind, flags = _HEADER.unpack_from(buffer)
        if length > MAX_DATA:
            del buffer[: _HEADER.size]
            self._skip = length
            return Frame(stream, kind, flags, b"", oversize=length)
        end = _HEADER.size + length
        if len(buffer) < end:
            return None
        frame = Frame(stream, kind, flags, bytes(buffer[_HEADER.size : end]))
        del buffer[:end]
        return frame
