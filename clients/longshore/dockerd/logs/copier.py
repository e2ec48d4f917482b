"""From bytes as they arrive to the records of a log: lines, and pieces of lines that are too long.

A record ends with its newline; one that has none continues in the next record
of its stream (or was the last). No I/O here.
"""

from __future__ import annotations

from collections.abc import Callable

PIECE = 16384
"""Longest record in bytes, its newline not counted, as clients that join the pieces expect."""

# Called with whole lines, or with one piece of a line (`whole` false).
Sink = Callable[[bytes, bool], None]


class Copier:
    """One stream's. `sink` gets as many whole lines at once as there are, in order."""

    __slots__ = ("_pending", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._pending = b""

    def feed(self, data: bytes) -> None:
        """Pass on what is complete, keep the rest (less than `PIECE`)."""
        if self._pending:
            data = self._pending + data
        start = done = 0
        while True:
            # The last newline within reach: one look per 16 KiB, not per line.
            newline = data.rfind(b"\n", start, start + PIECE)
            if newline >= start:
                start = newline + 1
                continue
            if len(data) - start < PIECE:
                break
            if start > done:
                self._sink(data[done:start], True)
            cut = _boundary(data, start, start + PIECE)
            self._sink(data[start:cut], False)
            start = done = cut
        if start > done:
            self._sink(data[done:start] if done or start < len(data) else data, True)
        self._pending = data[start:]

    def finish(self) -> None:
        """The stream has ended: what is left has no newline."""
        pending, self._pending = self._pending, b""
        if pending:
            self._sink(pending, False)


def _boundary(data: bytes, start: int, end: int) -> int:
    """Where to cut at or a little before `end`: not inside a UTF-8 character, which would spoil both pieces."""
    cut = end
    while cut > end - 3 and cut < len(data) and data[cut] & 0xC0 == 0x80:
        cut -= 1
    if cut < len(data) and data[cut] & 0xC0 == 0xC0 and cut > start:
        return cut
    return end
