"""Make a layer: what one tree has changed on another, as a tar stream.

Two ways lead to the same layer. `compare` walks two trees side by side; it
works for any two directories. `collect` walks the upper directory of an
overlay, which holds the changes already, and looks below only to leave out
what was copied up and not changed; it takes time for what changed, not for
what there is.

Things are equal when owner, mode, device, extended attributes and, but for
directories, size and mtime are. A time of whole seconds may have been cut by
a tar; then the contents decide. A directory that only leads to changes is part
of the layer, too, so that whoever applies it need not guess its attributes.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from longshore.layers import overlay, trees
from longshore.layers.overlay import OPAQUE_MARKER, WHITEOUT_PREFIX, XATTR_PREFIXES
from longshore.layers.tar import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK
from longshore.layers.writer import Writer

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_SECOND = 1_000_000_000

# What travels with a layer. Labels of security modules are this machine's business.
_XATTRS = ("security.capability", "user.", "trusted.", "system.posix_acl_")


def compare(left: int | None, right: int, writer: Writer, epoch_ns: int | None = None) -> None:
    """Write what `right` (a directory fd) changed on `left`, None for an empty tree.

    `epoch_ns` limits all times, for reproducible layers. Closes the archive.
    """
    layer = _Layer(writer, epoch_ns)
    stack = [_Pair(b"", None if left is None else os.dup(left), os.dup(right))]
    try:
        while stack:
            pair = stack[-1]
            name = next(pair.names, None)
            if name is None:
                layer.leave()
                stack.pop().close()
                continue
            below = _compare_one(pair, name, layer)
            if below is not None:
                stack.append(below)
    finally:
        for pair in stack:
            pair.close()
    writer.close()


def collect(
    upper: int,
    lowers: overlay.Lowers,
    writer: Writer,
    epoch_ns: int | None = None,
    prefix: str = XATTR_PREFIXES[0],
) -> None:
    """Write what an overlay's `upper` directory (an fd) changed on its `lowers`. Closes the archive."""
    layer = _Layer(writer, epoch_ns)
    stack = [_Merged(b"", os.dup(upper), [os.dup(root) for root in lowers.roots])]
    try:
        while stack:
            merged = stack[-1]
            name = next(merged.names, None)
            if name is None:
                layer.leave()
                stack.pop().close()
                continue
            below = _collect_one(merged, name, layer, prefix)
            if below is not None:
                stack.append(below)
    finally:
        for merged in stack:
            merged.close()
    writer.close()


# -- two trees ----------------------------------------------------------------------------------------------


class _Pair:
    """The same directory in both trees, and the names in either that are still to be looked at."""

    def __init__(self, path: bytes, left: int | None, right: int) -> None:
        self.path = path
        self.left = left
        self.right = right
        names = set(map(os.fsencode, os.listdir(right)))
        if left is not None:
            names |= set(map(os.fsencode, os.listdir(left)))
        self.names: Iterator[bytes] = iter(sorted(names))

    def close(self) -> None:
        os.close(self.right)
        if self.left is not None:
            os.close(self.left)


def _compare_one(pair: _Pair, name: bytes, layer: _Layer) -> _Pair | None:
    """Write what happened to `name`; the pair of directories to go into."""
    path = pair.path + name
    old = None if pair.left is None else _lstat(pair.left, name)
    new = _lstat(pair.right, name)
    if new is None:
        if old is not None:
            layer.delete(pair.path, name)
        return None
    thing = _Thing(pair.right, name, new)
    was = None if old is None or pair.left is None else _Thing(pair.left, name, old)
    if not stat.S_ISDIR(new.st_mode):
        if was is None or not _same(was, thing):
            layer.add(path, thing)
        return None
    both = was is not None and stat.S_ISDIR(was.status.st_mode)
    layer.enter(path, thing, changed=was is None or not _same(was, thing))
    left = os.open(name, _OPEN, dir_fd=pair.left) if both and pair.left is not None else None
    return _Pair(path + b"/", left, os.open(name, _OPEN, dir_fd=pair.right))


# -- an upper directory -------------------------------------------------------------------------------------


class _Merged:
    """A directory of the upper tree, and the ones that it is merged with, topmost first."""

    def __init__(self, path: bytes, upper: int, lowers: list[int]) -> None:
        self.path = path
        self.upper = upper
        self.lowers = lowers
        self.names: Iterator[bytes] = iter(sorted(map(os.fsencode, os.listdir(upper))))

    def close(self) -> None:
        for fd in (self.upper, *self.lowers):
            os.close(fd)


def _collect_one(merged: _Merged, name: bytes, layer: _Layer, prefix: str) -> _Merged | None:
    status = _lstat(merged.upper, name)
    if status is None:
        return None
    if overlay.is_whiteout(status):
        layer.delete(merged.path, name)
        return None
    path = merged.path + name
    thing, was = _Thing(merged.upper, name, status), _below(merged.lowers, name)
    if not stat.S_ISDIR(status.st_mode):
        if was is None or not _same(was, thing):
            layer.add(path, thing)
        return None
    upper = os.open(name, _OPEN, dir_fd=merged.upper)
    opaque = overlay.is_opaque(upper, prefix)
    layer.enter(path, thing, changed=opaque or was is None or not _same(was, thing))
    if opaque:
        layer.marker(path + b"/" + OPAQUE_MARKER)
    lowers = [] if opaque else _lower_directories(merged.lowers, name, prefix)
    return _Merged(path + b"/", upper, lowers)


def _below(lowers: list[int], name: bytes) -> _Thing | None:
    for directory in lowers:
        status = _lstat(directory, name)
        if status is not None:
            return None if overlay.is_whiteout(status) else _Thing(directory, name, status)
    return None


def _lower_directories(lowers: list[int], name: bytes, prefix: str) -> list[int]:
    below: list[int] = []
    for directory in lowers:
        status = _lstat(directory, name)
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            break
        # lowers are O_PATH below the roots or real: opening by name is the same for both
        below.append(
            os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        )
        if overlay.is_opaque(below[-1], prefix):
            break
    return below


# -- comparing ----------------------------------------------------------------------------------------------


class _Thing(NamedTuple):
    directory: int
    name: bytes
    status: os.stat_result


def _lstat(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _same(old: _Thing, new: _Thing) -> bool:
    a, b = old.status, new.status
    if trees.identity(a) == trees.identity(b):
        return True
    if (a.st_mode, a.st_uid, a.st_gid, a.st_rdev) != (b.st_mode, b.st_uid, b.st_gid, b.st_rdev):
        return False
    if _xattrs(old) != _xattrs(new):
        return False
    if stat.S_ISDIR(a.st_mode):
        return True
    if a.st_size != b.st_size or a.st_mtime_ns != b.st_mtime_ns:
        return False
    if stat.S_ISLNK(a.st_mode):
        return _link(old) == _link(new)
    if stat.S_ISREG(a.st_mode) and not a.st_mtime_ns % _SECOND:
        return _same_content(old, new)
    return True


def _link(thing: _Thing) -> bytes:
    return os.readlink(thing.name, dir_fd=thing.directory)


def _same_content(old: _Thing, new: _Thing) -> bool:
    with _File(old) as a, _File(new) as b:
        while True:
            x, y = os.read(a, _CHUNK), os.read(b, _CHUNK)
            if x != y:
                return False
            if not x:
                return True


def _xattrs(thing: _Thing) -> dict[str, bytes]:
    path = trees.fd_path(thing.directory, thing.name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOENT):
            return {}
        raise
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if name.startswith(_XATTRS) and not name.startswith(XATTR_PREFIXES)
    }


class _File:
    def __init__(self, thing: _Thing) -> None:
        self._thing = thing

    def __enter__(self) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(self._thing.name, flags, dir_fd=self._thing.directory)
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


# -- writing ------------------------------------------------------------------------------------------------


_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}


class _Layer:
    """Turns changes into entries; knows which directories on the way weren't written yet, and hard links."""

    def __init__(self, writer: Writer, epoch_ns: int | None) -> None:
        self._writer = writer
        self._limit = None if epoch_ns is None else epoch_ns // _SECOND
        self._now = int(time.time()) if self._limit is None else self._limit
        # One level per directory that we are in: what to write of it before anything in it.
        self._parents: list[tuple[bytes, _Thing] | None] = []
        self._links: dict[trees.Identity, bytes] = {}

    def enter(self, path: bytes, thing: _Thing, changed: bool) -> None:
        self._parents.append((path, thing))
        if changed:
            self._write_parents()

    def leave(self) -> None:
        if self._parents:
            self._parents.pop()

    def add(self, path: bytes, thing: _Thing) -> None:
        if stat.S_IFMT(thing.status.st_mode) not in _KINDS:
            return  # a socket means nothing without the process behind it
        self._write_parents()
        self._write(path, thing)

    def delete(self, parent: bytes, name: bytes) -> None:
        self.marker(parent + WHITEOUT_PREFIX + name)

    def marker(self, path: bytes) -> None:
        self._write_parents()
        self._writer.entry(path, REGULAR, mtime=self._now)

    def _write_parents(self) -> None:
        for level, parent in enumerate(self._parents):
            if parent is not None:
                self._write(*parent)
                self._parents[level] = None

    def _write(self, path: bytes, thing: _Thing) -> None:
        status = thing.status
        kind, linkname = _KINDS[stat.S_IFMT(status.st_mode)], b""
        if kind == SYMLINK:
            linkname = _link(thing)
        elif kind != DIRECTORY and status.st_nlink > 1:
            first = self._links.setdefault(trees.identity(status), path)
            if first != path:
                kind, linkname = HARDLINK, first
        size = status.st_size if kind == REGULAR else 0
        mtime = status.st_mtime_ns // _SECOND
        self._writer.entry(
            path,
            kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            size=size,
            mtime=mtime if self._limit is None else min(mtime, self._limit),
            linkname=linkname,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
            xattrs=None if kind == HARDLINK else _xattrs(thing),
        )
        if size:
            self._copy(path, thing, size)

    def _copy(self, path: bytes, thing: _Thing, size: int) -> None:
        left = size
        with _File(thing) as fd:
            while left:
                data = os.read(fd, min(left, _CHUNK))
                if not data:
                    raise OSError(errno.ESTALE, "file shrank while it was read", os.fsdecode(path))
                self._writer.data(data)
                left -= len(data)
