"""The log file: appended to, and replaced when it has grown to its size.

NAME            written to
NAME.1 ... .N   older ones (.gz when compressed), the oldest is removed
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Limits(NamedTuple):
    """`size` in bytes, 0 for no limit; `files` counts the one written to."""

    size: int = 0
    files: int = 1
    compress: bool = False


class File:
    """An open log. `fd` changes with a rotation."""

    def __init__(self, path: str, limits: Limits) -> None:
        self.path = path
        self._limits = limits
        self.fd, self._size = _open(path)

    def write(self, data: bytes, ends: list[int] | None = None) -> bool:
        """Append records; True when the file was replaced on the way.

        A file is replaced by the first record that finds it full. `ends` are the offsets behind each record, where
        they can't be found by their newlines.
        """
        limit = self._limits.size
        if not limit or self._size + len(data) < limit:
            self._append(data)
            return False
        return self._write_across(data, ends)

    def close(self) -> None:
        os.close(self.fd)

    def _append(self, data: bytes) -> None:
        self._size += len(data)
        written = os.write(self.fd, data)
        while written < len(data):
            data = data[written:]
            written = os.write(self.fd, data)

    def _write_across(self, data: bytes, ends: list[int] | None) -> bool:
        rotated = False
        start = 0
        while start < len(data):
            if self._size >= self._limits.size:
                self._rotate()
                rotated = True
            stop = self._fitting(data, start, ends)
            self._append(data[start:stop])
            start = stop
        return rotated

    def _fitting(self, data: bytes, start: int, ends: list[int] | None) -> int:
        """The end of the first record that fills the file."""
        full = start + self._limits.size - self._size
        if full > len(data):
            return len(data)
        if ends is None:
            newline = data.find(b"\n", full - 1)
            return newline + 1 if newline >= 0 else len(data)
        return next((end for end in ends if end >= full), len(data))

    def _rotate(self) -> None:
        os.close(self.fd)
        shift(self.path, self._limits.files, ".gz" if self._limits.compress else "")
        self.fd, self._size = _open(self.path)
        if self._limits.compress and self._limits.files > 1:
            _compress_beside(f"{self.path}.1")


def shift(path: str, files: int, extension: str) -> None:
    """Move each file to the next name; the last one goes."""
    if files < 2:
        os.unlink(path)
        return
    for number in range(files - 1, 1, -1):
        try:
            os.replace(f"{path}.{number - 1}{extension}", f"{path}.{number}{extension}")
        except FileNotFoundError:
            continue
    os.replace(path, f"{path}.1")


def _open(path: str) -> tuple[int, int]:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o640)
    return fd, os.fstat(fd).st_size


def _compress_beside(path: str) -> None:
    """By a child, so that the log isn't kept waiting; the next rotation finds the result."""
