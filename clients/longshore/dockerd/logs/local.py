"""The "local" driver's format: protobuf messages between their lengths, so that it can be read from both ends.

    u32 big endian: length    message    the same length again

    message LogEntry        { string source = 1; int64 time_nano = 2; bytes line = 3; bool partial = 4;
                              PartialLogEntryMetadata partial_log_metadata = 5; }
    PartialLogEntryMetadata { bool last = 1; string id = 2; int32 ordinal = 3; }

`line` is without its newline. Written by hand: this is all there is to it, and
a logger that loaded protobuf would be twice as large.
"""

from __future__ import annotations

import os
import struct

LENGTH = struct.Struct(">I")


def varint(number: int) -> bytes:
    """Protobuf's: seven bits a byte, the lowest first."""
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


class Partial:
    """The pieces of one long line."""

    __slots__ = ("id", "ordinal", "time_ns")

    def __init__(self, time_ns: int) -> None:
        self.id = os.urandom(32).hex().encode()
        self.ordinal = 0
        self.time_ns = time_ns

    def metadata(self, *, last: bool) -> bytes:
        """Fields 4 and 5 of the next piece."""
        self.ordinal += 1
        body = b"\x08\x01" if last else b""
        body += b"\x12" + varint(len(self.id)) + self.id + b"\x18" + varint(self.ordinal)
        return b"\x20\x01\x2a" + varint(len(body)) + body


class Encoder:
    """Records of a container."""

    def __init__(self) -> None:
        self._partial: dict[str, Partial] = {}

    def encode(self, stream: str, time_ns: int, data: bytes, whole: bool) -> tuple[bytes, list[int]]:
        """Whole lines, or one piece of a line: the records, and where each ends."""
        partial = self._partial.get(stream)
        if not whole:
            if partial is None:
                partial = self._partial[stream] = Partial(time_ns)
            record = _record(_head(stream, partial.time_ns), data, partial.metadata(last=False))
            return record, [len(record)]
        lines = data[:-1].split(b"\n")
        head = _head(stream, time_ns)
        records = []
        if partial is not None:
            del self._partial[stream]
            metadata = partial.metadata(last=True)
            records.append(_record(_head(stream, partial.time_ns), lines.pop(0), metadata))
        records += _records(head, lines)
        ends, end = [], 0
        for record in records:
            end += len(record)
            ends.append(end)
        return b"".join(records), ends


def _head(stream: str, time_ns: int) -> bytes:
    source = stream.encode()
    return b"\x0a" + varint(len(source)) + source + b"\x10" + varint(time_ns)


def _record(head: bytes, line: bytes, tail: bytes = b"") -> bytes:
    body = head + b"\x1a" + varint(len(line)) + line + tail
    length = LENGTH.pack(len(body))
    return length + body + length


def _records(head: bytes, lines: list[bytes]) -> list[bytes]:
    # Lines of one length have the same beginning and end.
    frames: dict[int, tuple[bytes, bytes]] = {}
    records = []
    for line in lines:
        count = len(line)
        frame = frames.get(count)
        if frame is None:
            before = head + b"\x1a" + varint(count)
            length = LENGTH.pack(len(before) + count)
            frame = frames[count] = length + before, length
        records.append(frame[0] + line + frame[1])
    return records
