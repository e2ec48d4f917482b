"""The log file: appended to, and replaced when it has grown to its size.

NAME            written to
NAME.1 ... .N   older ones (.gz when compressed), the oldest is removed
"""

from __future__ import annotations

import os
import struct
import time
from typing import NamedTuple

from longshore.linux import processes

EXTENSIONS = ("", ".gz")
MODE = 0o640
_BLOCK = 1 << 18


class Limits(NamedTuple):
    """`size` in bytes, 0 for no limit; `files` counts the one written to."""

    size: int = 0
    files: int = 1
    compress: bool = False


class File:
    """An open log. `fd` changes with a rotation, and is -1 while a full disk has no place for the new file."""

    def __init__(self, path: str, limits: Limits) -> None:
        self.path = path
        self.opened = 1
        """How often: whoever has seen fewer reads another file."""
        self._limits = limits
        self._compressing = 0
        self.fd, self._size = _open(path)

    def write(self, data: bytes, ends: list[int] | None = None) -> bool:
        """Append records; True when the file was replaced on the way. OSError: some at the end of `data` are lost.

        A file is replaced by the first record that finds it full. `ends` are the offsets behind each record, where
        they can't be found by their newlines.
        """
        if self.fd < 0:
            self._open()
        limit = self._limits.size
        if not limit or self._size + len(data) < limit:
            self._append(data)
            return False
        return self._write_across(data, ends)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self._finish_compression()

    def _open(self) -> None:
        self.fd, self._size = _open(self.path)
        self.opened += 1

    def _append(self, data: bytes) -> None:
        """All of it or, where the disk is full, nothing: a piece would spoil the record behind it, too."""
        before = self._size
        self._size += len(data)
        try:
            written = os.write(self.fd, data)
            while written < len(data):
                data = data[written:]
                written = os.write(self.fd, data)
        except OSError:
            os.ftruncate(self.fd, before)
            self._size = before
            raise

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
        self.fd = -1
        self._finish_compression()
        shift(self.path, self._limits.files)
        self._open()
        if self._limits.compress and self._limits.files > 1:
            self._compress(f"{self.path}.1")

    def _compress(self, path: str) -> None:
        """By a child, so that the log isn't kept waiting."""
        self._compressing = os.fork()
        if not self._compressing:
            try:
                processes.close_fds_except([])
                compress(path, time.time_ns())
            finally:
                os._exit(0)

    def _finish_compression(self) -> None:
        if self._compressing:
            os.waitpid(self._compressing, 0)
            self._compressing = 0


def shift(path: str, files: int) -> None:
    """Move each file to the next name; the last one goes."""
    if files < 2:
        _unlink(path)
        return
    for extension in EXTENSIONS:
        _unlink(f"{path}.{files - 1}{extension}")
        for number in range(files - 1, 1, -1):
            _rename(f"{path}.{number - 1}{extension}", f"{path}.{number}{extension}")
    _rename(path, f"{path}.1")


def compress(path: str, last_ns: int) -> None:
    """Replace a file by PATH.gz, whose header says, as the original's does, when its last record was written."""
    import zlib

    from longshore.dockerd.logs.jsonfile import Clock

    extra = b'{"lastTime":"%b"}' % Clock().text(last_ns)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    checksum = total = 0
    with open(path, "rb") as source, open(f"{path}.gz", "wb", opener=_private) as target:
        # Magic, deflate, an extra field; no time; no particular system.
        target.write(b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H", len(extra)) + extra)
        while block := source.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
            total += len(block)
            target.write(packer.compress(block))
        target.write(packer.flush() + struct.pack("<II", checksum, total & 0xFFFFFFFF))
    os.unlink(path)


def _open(path: str) -> tuple[int, int]:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, MODE)
    return fd, os.fstat(fd).st_size


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, MODE)


def _rename(old: str, new: str) -> None:
    try:
        os.replace(old, new)
    except FileNotFoundError:
        pass


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
