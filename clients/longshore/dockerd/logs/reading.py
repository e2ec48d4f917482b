"""Reading what a logger wrote: the last lines, a span of time, and on as it grows. Blocks: for threads.

A `Reader` holds the files it reads, so rotation takes nothing away from it;
who follows gives it each new file (`add`) as the logger tells of it.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

from longshore.dockerd.engine import LogEntry

BLOCK = 1 << 18
_GZIP = 31  # zlib's word for a gzip header


class Format(Protocol):
    """How records lie in a file."""

    @abstractmethod
    def decode(self, data: bytes) -> tuple[list[LogEntry], int]:
        """The whole records that `data` begins with, and how many bytes they are."""

    @abstractmethod
    def back(self, fd: int, end: int, count: int) -> tuple[int, int]:
        """Go `count` records back from `end`: where that is, and how many of them there weren't."""


class Span(NamedTuple):
    """`tail`: so many of the last records, None for all. Times are Unix nanoseconds, 0 for no bound."""

    tail: int | None = None
    since_ns: int = 0
    until_ns: int = 0


class Reader:
    """``with Reader(...) as reader: while entries := reader.more(): ...``; [] means: no more for now.

    With `bounded` it reads what is there now. Who doesn't follow needs that: a container may write faster than we read.
    """

    def __init__(self, path: str, format: Format, span: Span, *, bounded: bool = False) -> None:
        self._format = format
        self._span = span
        self.ended = False
        """A record past `until` was met."""
        self._fds = open_all(path)
        self._ends: list[int] | None = None
        self._offset = 0
        self._rest = b""
        if bounded:
            self.stop_here()
        if span.tail is not None:
            self._skip_to_tail(span.tail)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)

    def add(self, fd: int) -> None:
        """A file that follows the last one; ours from now on."""
        if _identity(fd) in map(_identity, self._fds):
            os.close(fd)  # one that we opened ourselves
        else:
            self._fds.append(fd)

    def stop_here(self) -> None:
        """Read what the files hold by now, and nothing that is written later."""
        self._ends = [os.fstat(fd).st_size for fd in self._fds]

    def more(self) -> list[LogEntry]:
        """The next entries in the span, a block of them; [] at what is the end by now."""
        while not self.ended and self._fds:
            data = os.pread(self._fds[0], self._reach(), self._offset)
            if not data:
                if len(self._fds) == 1:
                    return []
                self._forget_oldest(1)
                self._offset, self._rest = 0, b""
                continue
            self._offset += len(data)
            entries, used = self._format.decode(self._rest + data)
            self._rest = (self._rest + data)[used:]
            entries = self._within(entries)
            if entries:
                return entries
        return []

    def _reach(self) -> int:
        return BLOCK if self._ends is None else max(0, min(BLOCK, self._ends[0] - self._offset))

    def _forget_oldest(self, count: int) -> None:
        for fd in self._fds[:count]:
            os.close(fd)
        del self._fds[:count]
        if self._ends is not None:
            del self._ends[:count]

    def _within(self, entries: list[LogEntry]) -> list[LogEntry]:
        since, until = self._span.since_ns, self._span.until_ns
        if since:
            entries = [entry for entry in entries if entry.time_ns >= since]
        if until and entries and entries[-1].time_ns > until:
            self.ended = True
            entries = [entry for entry in entries if entry.time_ns <= until]
        return entries

    def _skip_to_tail(self, count: int) -> None:
        missing = count
        for index in range(len(self._fds) - 1, -1, -1):
            fd = self._fds[index]
            end = os.fstat(fd).st_size if self._ends is None else self._ends[index]
            self._offset, missing = self._format.back(fd, end, missing)
            if not missing:
                self._forget_oldest(index)
                return


def open_all(path: str) -> list[int]:
    """The log's files, oldest first. Empty if there is none."""
    for _ in range(10):
        fds = _open_once(path)
        # Renamed while we opened one after the other: a file may be there twice, or not at all.
        if not fds or _is(path, fds[-1]):
            return fds
        for fd in fds:
            os.close(fd)
    return _open_once(path)


def _open_once(path: str) -> list[int]:
    try:
        fds = [os.open(path, os.O_RDONLY | os.O_CLOEXEC)]
    except FileNotFoundError:
        return []
    number = 1
    while (older := _open_older(f"{path}.{number}")) >= 0:
        fds.insert(0, older)
        number += 1
    return fds


def _open_older(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    try:
        return _unpacked(f"{path}.gz")
    except FileNotFoundError:
        return -1


def _unpacked(path: str) -> int:
    """The file's content in an anonymous file."""
    unpack = zlib.decompressobj(_GZIP)
    with open(path, "rb") as packed, tempfile.TemporaryFile(buffering=0) as target:
        while data := packed.read(BLOCK):
            target.write(unpack.decompress(data))
        target.write(unpack.flush())
        return os.dup(target.fileno())


def _is(path: str, fd: int) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == _identity(fd)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def read_all(path: str, format: Format, span: Span) -> Sequence[LogEntry]:
    """Everything at once; for tests and short logs."""
    entries: list[LogEntry] = []
    with Reader(path, format, span) as reader:
        while more := reader.more():
            entries += more
    return entries
