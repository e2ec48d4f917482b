"""Overlay on disk: what a directory hides and what lies below it, without mounting anything.

An upper directory says "deleted" by a character device 0:0, and "nothing below
me counts" by the xattr opaque=y on a directory. Layers say the same with files
named ``.wh.NAME`` and ``.wh..wh..opq`` (see `apply` and `diff`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from longshore.layers.trees import fd_path

WHITEOUT_PREFIX = b".wh."
WHITEOUT_META_PREFIX = b".wh..wh."
OPAQUE_MARKER = b".wh..wh..opq"

XATTR_PREFIXES = ("trusted.overlay.", "user.overlay.")
"""Extended attributes that steer overlayfs: never taken from a layer and never put into one."""

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(directory: int, name: bytes) -> None:
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)


def set_opaque(directory: int, prefix: str) -> None:
    """`directory`: a real (not O_PATH) fd; `prefix`: the one of XATTR_PREFIXES that the mount uses."""
    os.setxattr(directory, prefix + "opaque", b"y")


def is_opaque(directory: int, prefix: str) -> bool:
    return xattr(directory, prefix + "opaque") == b"y"


def xattr(directory: int, key: str) -> bytes | None:
    """An xattr of an open directory, O_PATH or not; None if it has none."""
    try:
        return os.getxattr(fd_path(directory, b"."), key)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


class Found(NamedTuple):
    """Something in the lower layers; `directory` is an fd of the directory that holds it."""

    directory: int
    status: os.stat_result


class Lowers:
    """The lower directories of an overlay mount, topmost first, seen as one tree the way overlayfs shows them.

    A context manager: it holds one descriptor per layer.
    """

    def __init__(self, paths: list[str], prefix: str) -> None:
        self._prefix = prefix
        self._stack = contextlib.ExitStack()
        self.roots: list[int] = []
        with self._stack:
            for path in paths:
                self.roots.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                self._stack.callback(os.close, self.roots[-1])
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Lowers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def find(self, parts: list[bytes]) -> Iterator[Found | None]:
        """What stands at the path `parts` (no links followed), None if nothing does."""
        with contextlib.ExitStack() as stack:
            directories = list(self.roots)
            for part in parts[:-1]:
                directories = self._descend(directories, part, stack)
            yield _first(directories, parts[-1])

    def names(self) -> set[bytes]:
        """The names in the merged root directory."""
        seen: set[bytes] = set()
        visible: set[bytes] = set()
        for root in self.roots:
            fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
            try:
                names = [os.fsencode(name) for name in os.listdir(fd)]
            finally:
                os.close(fd)
            for name in names:
                if name not in seen:
                    seen.add(name)
                    status = _lstat(root, name)
                    if status is not None and not is_whiteout(status):
                        visible.add(name)
        return visible

    def _descend(self, directories: list[int], name: bytes, stack: contextlib.ExitStack) -> list[int]:
        below: list[int] = []
        for directory in directories:
            status = _lstat(directory, name)
            if status is None:
                continue
            if not stat.S_ISDIR(status.st_mode):
                break  # a whiteout, or a file that hides the directories below it
            fd = os.open(name, _PATH, dir_fd=directory)
            stack.callback(os.close, fd)
            below.append(fd)
            if is_opaque(fd, self._prefix):
                break
        return below


def _first(directories: list[int], name: bytes) -> Found | None:
    for directory in directories:
        status = _lstat(directory, name)
        if status is not None:
            return None if is_whiteout(status) else Found(directory, status)
    return None


def _lstat(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
