"""Reading the json-file format (`jsonfile` writes it)."""

from __future__ import annotations

import calendar
import os
import time

import msgspec

from longshore.dockerd.engine import LogEntry
from longshore.dockerd.logs.reading import Format

_BLOCK = 1 << 16


class _Record(msgspec.Struct):
    log: str = ""
    stream: str = ""
    attrs: dict[str, str] = {}
    time: str = ""


class JSONFormat(Format):
    """One document per line; a line that is none (torn by a crash) is left out."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Record)
        self._lines = msgspec.json.Decoder(list[_Record])
        self._times = Times()

    def decode(self, data: bytes) -> tuple[list[LogEntry], int]:
        used = data.rfind(b"\n") + 1
        if not used:
            return [], 0
        at = self._times.parse
        return [
            LogEntry(
                record.stream, at(record.time), record.log.encode("utf-8", "surrogatepass"), record.attrs
            )
            for record in self._records(data[:used])
        ], used

    def back(self, fd: int, end: int, count: int) -> tuple[int, int]:
        # What stands behind the last newline is still being written.
        position, newlines = end, count + 1
        while position > 0:
            start = max(0, position - _BLOCK)
            block = os.pread(fd, position - start, start)
            found = block.count(b"\n")
            if found >= newlines:
                return start + _nth_last(block, newlines) + 1, 0
            newlines -= found
            position = start
        return 0, newlines - 1

    def _records(self, lines: bytes) -> list[_Record]:
        try:
            return self._lines.decode(b"[" + lines[:-1].replace(b"\n", b",") + b"]")
        except msgspec.MsgspecError:
            return [record for line in lines.splitlines() if (record := self._record(line)) is not None]

    def _record(self, line: bytes) -> _Record | None:
        try:
            return self._decoder.decode(line)
        except msgspec.MsgspecError:
            return None


def _nth_last(block: bytes, count: int) -> int:
    position = len(block)
    for _ in range(count):
        position = block.rindex(b"\n", 0, position)
    return position


class Times:
    """RFC 3339 with up to nine digits of fraction, to Unix nanoseconds; 0 for what is no time."""

    def __init__(self) -> None:
        self._text = self._second = ""
        self._time_ns = self._seconds = 0

    def parse(self, text: str) -> int:
        # Lines that were read together have the same time.
        if text != self._text:
            self._text, self._time_ns = text, self._parse(text)
        return self._time_ns

    def _parse(self, text: str) -> int:
        if text[:19] != self._second:
            try:
                self._seconds = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
            except ValueError:
                return 0
            self._second = text[:19]
        fraction = text[20:-1] if text[19:20] == "." else ""
        nanoseconds = int(fraction.ljust(9, "0")) if fraction.isdigit() else 0
        return self._seconds * 1_000_000_000 + nanoseconds
