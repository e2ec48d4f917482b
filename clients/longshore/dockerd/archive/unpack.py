"""A tar stream into a directory of a container.

Unlike a layer, an archive knows no whiteouts, and replaces what stands in its
way unless told not to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final, NamedTuple

from longshore.layers import tar, trees
from longshore.layers.apply import clean
from longshore.linux import files

_PATH: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT: Final = "security."
_MAX_NS: Final = 1 << 63


class Refused(Exception):
    """The archive can't be unpacked here; the text is for the client."""


class Wishes(NamedTuple):
    strict: bool = False
    """A directory isn't replaced by another thing, nor another thing by a directory."""
    owner: tuple[int, int] | None = None
    """Of everything, instead of the archive's owners."""


class Unpacker:
    """`run` unpacks all of a reader's entries below `place`, a path in `root`."""

    def __init__(self, reader: tar.Reader, root: int, place: str, wishes: Wishes) -> None:
        self._reader, self._root, self._place, self._wishes = reader, root, os.fsencode(place), wishes
        self._times: list[tuple[bytes, int]] = []
        self._makers: dict[int, Callable[[tar.Entry, int, bytes], None]] = {
            tar.REGULAR: self._file,
            tar.HARDLINK: self._hardlink,
            tar.SYMLINK: self._symlink,
            tar.CHARACTER: self._node,
            tar.BLOCK_DEVICE: self._node,
            tar.FIFO: self._node,
        }

    def run(self) -> None:
        """Raises Refused, InvalidLayer (a damaged archive), OSError."""
        old = os.umask(0)
        try:
            while (entry := self._reader.next()) is not None:
                self._entry(entry)
            for path, time_ns in reversed(self._times):
                self._set_time(path, time_ns)
        finally:
            os.umask(old)

    def _entry(self, entry: tar.Entry) -> None:
        if b".." in entry.name.split(b"/") and _leaves(entry.name):
            raise Refused(f"{_quoted(entry.name)} is outside of {_quoted(self._place)}")
        name = clean(entry.name)
        parent, _, last = name.rpartition(b"/")
        directory = self._parent(parent)
        try:
            if entry.kind == tar.DIRECTORY:
                self._directory(entry, directory, last, name)
            else:
                self._clear(directory, last, entry)
                self._makers[entry.kind](entry, directory, last)
        except OSError as error:
            text = (error.strerror or str(error)).removeprefix("openat2: ")
            raise OSError(error.errno, text, _shown(entry.name)) from None
        finally:
            os.close(directory)

    def _at(self, path: bytes) -> bytes:
        return self._place + b"/" + path

    def _parent(self, path: bytes) -> int:
        try:
            return files.open_in_root(self._root, self._at(path), _PATH)
        except FileNotFoundError:
            return files.mkdir_in_root(self._root, os.fsdecode(self._at(path)))

    def _clear(self, directory: int, name: bytes, entry: tar.Entry) -> None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=directory)
            return
        if self._wishes.strict:
            raise Refused(
                f"cannot overwrite directory {_quoted(entry.name)} with non-directory {_quoted(self._place)}"
            )
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            trees.remove(fd, name)
        finally:
            os.close(fd)

    def _directory(self, entry: tar.Entry, directory: int, name: bytes, path: bytes) -> None:
        if not name:
            return  # the place itself, which keeps what it has
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self._replace_by_directory(entry, directory, name)
        self._attributes(entry, directory, name)
        self._times.append((path, _time(entry)))

    def _replace_by_directory(self, entry: tar.Entry, directory: int, name: bytes) -> None:
        if self._wishes.strict:
            raise Refused(
                f"cannot overwrite non-directory {_quoted(entry.name)} with directory {_quoted(self._place)}"
            )
        os.unlink(name, dir_fd=directory)
        os.mkdir(name, 0o700, dir_fd=directory)

    def _file(self, entry: tar.Entry, directory: int, name: bytes) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=directory)
        try:
            self._write(entry, fd)
        finally:
            os.close(fd)
        self._attributes(entry, directory, name)
        os.utime(name, ns=(_time(entry),) * 2, dir_fd=directory, follow_symlinks=False)

    def _write(self, entry: tar.Entry, fd: int) -> None:
        extents = entry.sparse or [tar.Extent(0, entry.stored)]
        pieces = self._reader.data()
        held = memoryview(b"")
        for offset, length in extents:
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                held = held or next(pieces)
                done = os.write(fd, held[:length])
                held, length = held[done:], length - done
        os.ftruncate(fd, entry.size)

    def _hardlink(self, entry: tar.Entry, directory: int, name: bytes) -> None:
        target = clean(entry.linkname)
        if not target or _leaves(entry.linkname):
            raise Refused(f"invalid hardlink {_quoted(entry.linkname)} -> {_quoted(entry.name)}")
        parent, _, last = target.rpartition(b"/")
        source = files.open_in_root(self._root, self._at(parent), _PATH)
        try:
            os.link(last, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _symlink(self, entry: tar.Entry, directory: int, name: bytes) -> None:
        """Wherever it points: nobody here follows it out of the container."""
        os.symlink(entry.linkname, name, dir_fd=directory)
        uid, gid = self._wishes.owner or (entry.uid, entry.gid)
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        os.utime(name, ns=(_time(entry),) * 2, dir_fd=directory, follow_symlinks=False)

    def _node(self, entry: tar.Entry, directory: int, name: bytes) -> None:
        kinds = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
        device = 0 if entry.kind == tar.FIFO else os.makedev(entry.major, entry.minor)
        os.mknod(name, 0o600 | kinds[entry.kind], device, dir_fd=directory)
        self._attributes(entry, directory, name)
        os.utime(name, ns=(_time(entry),) * 2, dir_fd=directory, follow_symlinks=False)

    def _attributes(self, entry: tar.Entry, directory: int, name: bytes) -> None:
        """Owner first: changing it takes set-uid bits and capabilities away."""
        uid, gid = self._wishes.owner or (entry.uid, entry.gid)
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        os.chmod(name, entry.mode, dir_fd=directory)
        for key, value in (entry.xattrs or {}).items():
            if key.startswith(_KEPT):
                _set_xattr(trees.fd_path(directory, name), key, value)

    def _set_time(self, path: bytes, time_ns: int) -> None:
        try:
            fd = files.open_in_root(self._root, self._at(path), _PATH | os.O_NOFOLLOW)
        except OSError:
            return  # something else stands there by now
        try:
            os.utime(f"/proc/self/fd/{fd}", ns=(time_ns, time_ns))
        finally:
            os.close(fd)


def _set_xattr(path: bytes, key: str, value: bytes) -> None:
    try:
        os.setxattr(path, key, value, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise


def _leaves(name: bytes) -> bool:
    """Whether its ".." lead above where it starts."""
    depth = 0
    for part in name.split(b"/"):
        depth += {b"..": -1, b".": 0, b"": 0}.get(part, 1)
        if depth < 0:
            return True
    return False


def _time(entry: tar.Entry) -> int:
    return entry.mtime_ns if 0 <= entry.mtime_ns < _MAX_NS else 0


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _quoted(name: bytes) -> str:
    return f'"{_shown(name)}"'
