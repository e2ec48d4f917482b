"""Layers made by hand, and directory trees made comparable."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longshore.layers import apply, compression, overlay, tar

XATTR = "SCHILY.xattr."


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """A tar member; `fields` are TarInfo's, `xattrs` a dict of bytes."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o644
    if kind == tarfile.DIRTYPE:
        info.mode = 0o755
    xattrs = fields.pop("xattrs", {})
    info.pax_headers = {
        XATTR + key: value.decode("utf-8", "surrogateescape") for key, value in xattrs.items()
    }
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.SYMTYPE, linkname=target, **fields)


def hardlink(name: str, target: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.LNKTYPE, linkname=target, **fields)


def layer(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of the members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def reader(data: bytes, chunk: int = 1 << 16) -> tar.Reader:
    """A Reader over bytes, fed `chunk` bytes at a time."""
    pieces = iter([data[start : start + chunk] for start in range(0, len(data), chunk)])
    return tar.Reader(lambda: next(pieces, b""))


def apply_to(target: Path, data: bytes, lowers: Iterable[Path] | None = None) -> int:
    """Apply a layer to a plain tree, or with `lowers` to the upper directory of an overlay."""
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if lowers is None:
            return apply.apply(reader(data), root)
        with overlay.Lowers([str(lower) for lower in lowers], overlay.XATTR_PREFIXES[0]) as below:
            return apply.apply(reader(data), root, below)
    finally:
        os.close(root)


def blob_stream(path: Path, kind: str = compression.AUTO) -> bytes:
    """The uncompressed content of a file."""
    with opened(path, os.O_RDONLY) as fd:
        return b"".join(compression.decompressed(fd, kind))


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY | os.O_DIRECTORY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def tree(root: Path, *, times: bool = True) -> dict[str, tuple[Any, ...]]:
    """Everything below `root` that a container could see: path -> kind and mode, owner, device, content, ..."""
    found: dict[str, tuple[Any, ...]] = {}
    first: dict[tuple[int, int], str] = {}
    for path in sorted(_below(root)):
        name = str(path.relative_to(root))
        status = path.lstat()
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        twin = name
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            twin = first.setdefault((status.st_dev, status.st_ino), name)
        mtime = status.st_mtime_ns if times else 0
        owner = (status.st_uid, status.st_gid)
        found[name] = (oct(status.st_mode), owner, status.st_rdev, content, twin, mtime, _xattrs(path))
    return found


def _below(root: Path) -> Iterator[Path]:
    for folder, directories, files in os.walk(root):
        for name in (*directories, *files):
            yield Path(folder, name)


def _xattrs(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if not name.startswith(("trusted.overlay.", "security.selinux"))
    }
