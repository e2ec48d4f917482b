"""Blobs and ingests as files, laid out as containerd's::

    blobs/sha256/<hex>                   mode 0444, complete and durable: it got its name by rename
    ingest/<sha256 of the ref>/data      what has arrived
                               ref startedat updatedat total

Everything here blocks, and is called in threads. Nothing here knows namespaces:
refs are already unique (``<namespace>/<number>/<ref>``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from longshore.containerd.oserrors import FULL

_CHUNK: Final = 1 << 20


class Ingest:
    """An open `data` file with the hash of its content: who appends, updates `hash`, or sets `hash_is_stale`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fd = os.open(directory / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.hash = hashlib.sha256()
        self.hash_is_stale = False
        self.size = 0
        self.started = _read_time(directory / "startedat")
        self.updated = _read_time(directory / "updatedat")
        try:
            self.hash_again()
        except BaseException:
            os.close(self.fd)
            raise

    def hash_again(self) -> None:
        """Hash the file; `size` becomes its length."""
        self.hash, self.size = hashlib.sha256(), 0
        while data := os.pread(self.fd, _CHUNK, self.size):
            self.hash.update(data)
            self.size += len(data)
        self.hash_is_stale = False

    def append(self, data: bytes) -> int:
        """Write at the end; how much of `data` was written: all, unless the disk is full.

        Raises OSError if not a byte could be.
        """
        view = memoryview(data)
        written = 0
        while written < len(data):
            try:
                written += os.pwrite(self.fd, view[written:], self.size + written)
            except OSError as error:
                if not written or error.errno not in FULL:
                    raise
                break
        self.size += written
        self.updated = time.time_ns()
        return written

    def restart(self) -> None:
        os.ftruncate(self.fd, 0)
        self.hash, self.size, self.hash_is_stale = hashlib.sha256(), 0, False
        self.updated = time.time_ns()

    def digest(self, algorithm: str) -> str:
        """The digest of the data by another algorithm than `hash` has."""
        other = hashlib.new(algorithm)
        position = 0
        while data := os.pread(self.fd, _CHUNK, position):
            other.update(data)
            position += len(data)
        return f"{algorithm}:{other.hexdigest()}"

    def close(self) -> None:
        """Close, noting the time of the last write if the ingest still exists."""
        with contextlib.suppress(OSError):
            _write_time(self.directory / "updatedat", self.updated)
        os.close(self.fd)


class Files:
    """The two directories below `root`, made as needed. `proxies.content` keeps the blobs elsewhere."""

    opens_at_once = True
    """Whether `open_blob` is quick enough for the event loop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"
        for directory in (self._blobs / "sha256", self._ingest):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)

    def blob(self, digest: str) -> Path:
        """Where the blob of a valid digest is."""
        algorithm, _, digits = digest.partition(":")
        return self._blobs / algorithm / digits

    def open_blob(self, digest: str) -> int:
        """A descriptor to read a blob from, the caller's to close."""
        return os.open(self.blob(digest), os.O_RDONLY | os.O_CLOEXEC)

    def open_ingest(self, directory: str, ref: str, total: int) -> Ingest:
        """Make or resume an ingest; one begun with another `total` starts again."""
        path = self._ingest / directory
        if not path.is_dir():
            self._make(path, ref, total)
        elif total and (known := self.total(directory)) and known != total:
            (path / "data").unlink(missing_ok=True)
            (path / "total").write_text(str(total))
        return Ingest(path)

    def _make(self, path: Path, ref: str, total: int) -> None:
        path.mkdir(mode=0o755)
        now = time.time_ns()
        (path / "ref").write_text(ref)
        for name in ("startedat", "updatedat"):
            _write_time(path / name, now)
        if total:
            (path / "total").write_text(str(total))

    def total(self, directory: str) -> int:
        """The total that an ingest was begun with, 0 if none."""
        try:
            return int((self._ingest / directory / "total").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def progress(self, directory: str) -> tuple[int, int] | None:
        """(size, time of the last write) of an ingest, None if it has no file."""
        try:
            status = os.stat(self._ingest / directory / "data")
        except FileNotFoundError:
            return None
        return status.st_size, status.st_mtime_ns

    def publish(self, ingest: Ingest, digest: str) -> None:
        """Give the ingest's data the name of its digest; durable at the return, mode 0444."""
        blob = self.blob(digest)
        if not blob.parent.is_dir():
            blob.parent.mkdir(mode=0o755, exist_ok=True)
            _sync_directory(self._blobs)
        os.fchmod(ingest.fd, 0o444)
        os.fsync(ingest.fd)
        os.rename(ingest.directory / "data", blob)
        _sync_directory(blob.parent)

    def withdraw(self, ingest: Ingest, digest: str) -> None:
        """Undo `publish`."""
        os.fchmod(ingest.fd, 0o644)
        os.rename(self.blob(digest), ingest.directory / "data")

    def remove_blob(self, digest: str) -> None:
        self.blob(digest).unlink(missing_ok=True)

    def remove_ingest(self, directory: str) -> None:
        """Forget an ingest; a writer that has it open writes into the void."""
        shutil.rmtree(self._ingest / directory, ignore_errors=True)

    def discard_ingest(self, directory: str) -> None:
        """`remove_ingest`, or OSError if something stays."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._ingest / directory)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_time(path: Path, time_ns: int) -> None:
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z".encode())
    finally:
        os.close(fd)


def _read_time(path: Path) -> int:
    """A time written by `_write_time` (or Go), the file's own if it is damaged."""
    try:
        text = path.read_text()
        whole, _, fraction = text.rstrip("Z").partition(".")
        moment = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        return int(moment.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)
    except (FileNotFoundError, ValueError):
        return time.time_ns()
