"""A tree, or one file, as a tar stream."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from longshore.layers import tar, trees
from longshore.layers.writer import Writer

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 1 << 16
_CAPABILITY = "security.capability"

_KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFIFO: tar.FIFO,
}


class Packer:
    """Writes members; a file with several names is written once and linked afterwards. Sockets have no place in tar."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._links: dict[trees.Identity, bytes] = {}

    def tree(self, directory: int, name: bytes, shown: bytes) -> None:
        """`name` in `directory` and all below, under the name `shown`."""
        levels: list[tuple[int, bytes, Iterator[bytes]]] = []
        try:
            self._into(levels, directory, name, shown)
            while levels:
                fd, path, names = levels[-1]
                below = next(names, None)
                if below is None:
                    os.close(levels.pop()[0])
                else:
                    self._into(levels, fd, below, path + below)
        finally:
            for fd, _, _ in levels:
                os.close(fd)

    def below(self, directory: int) -> None:
        """What is in `directory`, without itself: the names have no prefix."""
        fd = os.open(b".", _OPEN_DIRECTORY, dir_fd=directory)
        try:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                self.tree(fd, name, name)
        finally:
            os.close(fd)

    def _into(
        self, levels: list[tuple[int, bytes, Iterator[bytes]]], directory: int, name: bytes, shown: bytes
    ) -> None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self._one(directory, name, shown, status)
                return
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            return  # it went, or became something else, while we looked
        except OSError as error:
            if error.errno == errno.ELOOP:
                return
            raise
        levels.append((fd, shown.rstrip(b"/") + b"/", iter(())))
        self._member(directory, name, shown, tar.DIRECTORY, status)
        levels[-1] = (fd, levels[-1][1], iter(sorted(map(os.fsencode, os.listdir(fd)))))

    def _one(self, directory: int, name: bytes, shown: bytes, status: os.stat_result) -> None:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return
        first = self._links.get(trees.identity(status)) if status.st_nlink > 1 else None
        if first is not None:
            self._member(directory, name, shown, tar.HARDLINK, status, first)
            return
        if status.st_nlink > 1:
            self._links[trees.identity(status)] = shown
        if kind == tar.REGULAR:
            self._file(directory, name, shown)
            return
        link = os.readlink(name, dir_fd=directory) if kind == tar.SYMLINK else b""
        self._member(directory, name, shown, kind, status, os.fsencode(link))

    def _file(self, directory: int, name: bytes, shown: bytes) -> None:
        fd = os.open(name, _OPEN_FILE, dir_fd=directory)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            self._member(directory, name, shown, tar.REGULAR, status)
            left = status.st_size
            while left and (piece := os.read(fd, min(left, _BLOCK))):
                self._writer.data(piece)
                left -= len(piece)
            while left:  # it was cut while we read
                piece = bytes(min(left, _BLOCK))
                self._writer.data(piece)
                left -= len(piece)
        finally:
            os.close(fd)

    def _member(
        self,
        directory: int,
        name: bytes,
        shown: bytes,
        kind: int,
        status: os.stat_result,
        link: bytes = b"",
    ) -> None:
        self._writer.entry(
            shown,
            kind,
            mode=status.st_mode,  # with the bits of the kind, as the original writes them
            uid=status.st_uid,
            gid=status.st_gid,
            size=status.st_size if kind == tar.REGULAR else 0,
            mtime=max(status.st_mtime_ns // 1_000_000_000, 0),
            linkname=link,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
            xattrs=_capability(directory, name) if kind == tar.REGULAR else None,
        )


def _capability(directory: int, name: bytes) -> dict[str, bytes] | None:
    """The one attribute without which a program does something else."""
    try:
        value = os.getxattr(trees.fd_path(directory, name), _CAPABILITY, follow_symlinks=False)
    except OSError:
        return None
    return {_CAPABILITY: value}
