"""Reading the "local" driver's format (`local` writes it)."""

from __future__ import annotations

import os

from longshore.dockerd.engine import LogEntry
from longshore.dockerd.logs.local import LENGTH
from longshore.dockerd.logs.reading import Format

_SMALLEST = 2 * LENGTH.size
_LARGEST = 1 << 20  # the original's limit, too
_VARINT, _BYTES = 0, 2


class LocalFormat(Format):
    """Raises nothing: what can't be read ends the file it is in."""

    def decode(self, data: bytes) -> tuple[list[LogEntry], int]:
        entries: list[LogEntry] = []
        start, end = 0, len(data)
        while end - start >= _SMALLEST:
            (length,) = LENGTH.unpack_from(data, start)
            stop = start + LENGTH.size + length + LENGTH.size
            if length > _LARGEST:
                return entries, end  # not a record: nothing after it can be found
            if stop > end:
                break
            try:
                entries.append(parse(data[start + LENGTH.size : stop - LENGTH.size]))
            except (ValueError, IndexError):
                pass
            start = stop
        return entries, start

    def back(self, fd: int, end: int, count: int) -> tuple[int, int]:
        position = self._whole(fd, end)
        while count and position >= _SMALLEST:
            (length,) = LENGTH.unpack(os.pread(fd, LENGTH.size, position - LENGTH.size))
            start = position - length - _SMALLEST
            if start < 0 or length > _LARGEST:
                break
            position, count = start, count - 1
        return position, count

    def _whole(self, fd: int, end: int) -> int:
        """`end`, or, where a record is only half written, the end of the last whole one."""
        if end < _SMALLEST or self._ends_at(fd, end):
            return end
        position = 0
        while position + _SMALLEST <= end:
            (length,) = LENGTH.unpack(os.pread(fd, LENGTH.size, position))
            stop = position + length + _SMALLEST
            if length > _LARGEST or stop > end:
                break
            position = stop
        return position

    def _ends_at(self, fd: int, end: int) -> bool:
        last = os.pread(fd, LENGTH.size, end - LENGTH.size)
        start = end - LENGTH.unpack(last)[0] - _SMALLEST
        return start >= 0 and os.pread(fd, LENGTH.size, start) == last


def parse(message: bytes) -> LogEntry:
    """One LogEntry. Raises ValueError or IndexError for what is none."""
    fields = _fields(message)
    line = _bytes(fields.get(3, b""))
    # Without metadata it is a whole line; a piece has its newline if it is the last.
    last = _fields(_bytes(fields[5])).get(1, 0) if 5 in fields else not fields.get(4, 0)
    return LogEntry(
        _bytes(fields.get(1, b"")).decode(), _int(fields.get(2, 0)), line + b"\n" if last else line
    )


def _fields(message: bytes) -> dict[int, int | bytes]:
    found: dict[int, int | bytes] = {}
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind not in (_VARINT, _BYTES):
            raise ValueError(f"wire type {kind}")
        value, position = _varint(message, position)
        if kind == _VARINT:
            found[key >> 3] = value
        else:
            found[key >> 3] = message[position : position + value]
            position += value
    return found


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text should be")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("text where a number should be")
    return value
