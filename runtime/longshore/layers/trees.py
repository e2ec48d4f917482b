"""Whole directory trees: removed, copied, measured. Always below a directory fd, never through a symlink.

Depth is bounded by memory only: a hostile layer nests directories deeper than
Python recurses or than there are descriptors, so that a walk keeps one
descriptor and goes up by "..", checking that it arrives where it came from.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]
"""(st_dev, st_ino)"""


def identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


class _Level:
    __slots__ = ("identity", "name", "subdirectories")

    def __init__(self, name: bytes, identity: Identity, subdirectories: list[bytes]) -> None:
        self.name = name
        self.identity = identity
        self.subdirectories = subdirectories


class _Cursor:
    """Stands in one directory of a tree; `down` and `up` move it."""

    def __init__(self, directory: int, name: bytes) -> None:
        self.fd = os.open(name, _DIRECTORY, dir_fd=directory)
        self._identities = [identity(os.fstat(directory)), identity(os.fstat(self.fd))]

    def __enter__(self) -> _Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    @property
    def identity(self) -> Identity:
        return self._identities[-1]

    def down(self, name: bytes) -> None:
        self._move(os.open(name, _DIRECTORY, dir_fd=self.fd))
        self._identities.append(identity(os.fstat(self.fd)))

    def up(self) -> None:
        self._move(os.open(b"..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd))
        self._identities.pop()
        # Somebody who moves directories while we walk could lead us out of the tree.
        if identity(os.fstat(self.fd)) != self._identities[-1]:
            raise OSError(errno.ESTALE, "directory tree changed while it was walked")

    def _move(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd


def remove(
    directory: int,
    name: bytes,
    forget: Callable[[Identity], object] | None = None,
    limit: int | None = None,
) -> bool:
    """Remove `name` in `directory` and everything below; no error if it is missing.

    `forget` is told the identity of each directory that goes. With a `limit`,
    stop after about so many removals; False if something is left.
    """
    try:
        os.unlink(name, dir_fd=directory)
        return True
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        # Linux says EISDIR; EPERM also stands for an immutable file, which then fails below.
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise
    done = 0
    with _Cursor(directory, name) as cursor:
        count, subdirectories = _unlink_files(cursor.fd, limit)
        levels = [_Level(name, cursor.identity, subdirectories)]
        while levels:
            done += count
            if limit is not None and done >= limit:
                return False
            level, count = levels[-1], 1
            if level.subdirectories:
                child = level.subdirectories.pop()
                with contextlib.suppress(FileNotFoundError):
                    cursor.down(child)
                    count, subdirectories = _unlink_files(cursor.fd, limit)
                    levels.append(_Level(child, cursor.identity, subdirectories))
                continue
            cursor.up()
            levels.pop()
            os.rmdir(level.name, dir_fd=cursor.fd)
            if forget is not None:
                forget(level.identity)
    return True


def _unlink_files(fd: int, limit: int | None) -> tuple[int, list[bytes]]:
    """Remove what isn't a directory: how many went, and the names of the directories."""
    directories, files = [], []
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                directories.append(name)
            else:
                files.append(name)
    if limit is not None and len(files) > limit:
        return limit, []
    for name in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
    return len(files), directories


def usage(path: bytes | str) -> tuple[int, int]:
    """(bytes on disk, inodes) of the tree at `path`, itself included; hard links count once. (0, 0) if missing."""
    size = inodes = 0
    seen: set[Identity] = set()
    for status in statuses(os.fsencode(path)):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if identity(status) in seen:
                continue
            seen.add(identity(status))
        size += status.st_blocks * 512
        inodes += 1
    return size, inodes


def statuses(path: bytes) -> Iterator[os.stat_result]:
    """Of `path` and everything below, links not followed; what vanishes meanwhile is left out."""
    try:
        yield os.lstat(path)
    except FileNotFoundError:
        return
    pending = [path]
    while pending:
        try:
            scan = os.scandir(pending.pop())
        except (FileNotFoundError, NotADirectoryError):
            continue  # a running container removes files while we count
        with scan as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield status
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)


# -- copies -------------------------------------------------------------------------------------------------


def copy_tree(source: int, target: int) -> None:
    """Make the empty directory `target` an exact copy of `source` (both fds): data, attributes, holes, hard links."""
    links: dict[Identity, bytes] = {}
    pending = [b""]
    finished: list[bytes] = []
    while pending:
        path = pending.pop()
        finished.append(path)
        with _open_below(source, path) as from_fd, _open_below(target, path) as to_fd:
            with os.scandir(from_fd) as entries:
                names = [os.fsencode(entry.name) for entry in entries]
            for name in names:
                status = os.stat(name, dir_fd=from_fd, follow_symlinks=False)
                below = path + b"/" + name if path else name
                if stat.S_ISDIR(status.st_mode):
                    os.mkdir(name, 0o700, dir_fd=to_fd)
                    pending.append(below)
                elif status.st_nlink > 1 and identity(status) in links:
                    os.link(
                        links[identity(status)],
                        name,
                        src_dir_fd=target,
                        dst_dir_fd=to_fd,
                        follow_symlinks=False,
                    )
                else:
                    copy_object(from_fd, name, to_fd, name, status)
                    if status.st_nlink > 1:
                        links[identity(status)] = below
    for path in reversed(finished):
        with _open_below(source, path) as from_fd, _open_below(target, path) as to_fd:
            copy_attributes(from_fd, to_fd)


@contextlib.contextmanager
def _open_below(root: int, path: bytes) -> Iterator[int]:
    fd = os.open(path or b".", _DIRECTORY, dir_fd=root)
    try:
        yield fd
    finally:
        os.close(fd)


def copy_object(from_fd: int, name: bytes, to_fd: int, new: bytes, status: os.stat_result) -> None:
    """Copy one thing that is no directory, with all its attributes."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        _copy_file(from_fd, name, to_fd, new, status)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=from_fd), new, dir_fd=to_fd)
    else:
        os.mknod(new, status.st_mode, status.st_rdev, dir_fd=to_fd)
    os.chown(new, status.st_uid, status.st_gid, dir_fd=to_fd, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(new, stat.S_IMODE(status.st_mode), dir_fd=to_fd)
    old_path, new_path = fd_path(from_fd, name), fd_path(to_fd, new)
    for key in os.listxattr(old_path, follow_symlinks=False):
        os.setxattr(new_path, key, os.getxattr(old_path, key, follow_symlinks=False), follow_symlinks=False)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=to_fd, follow_symlinks=False)


def _copy_file(from_fd: int, name: bytes, to_fd: int, new: bytes, status: os.stat_result) -> None:
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=from_fd)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=to_fd)
        try:
            copy_data(old, fd, status.st_size)
            copy_attributes(old, fd)
        finally:
            os.close(fd)
    finally:
        os.close(old)


def copy_data(old: int, new: int, size: int) -> None:
    """Copy extents, keep holes; copy_file_range shares blocks where the filesystem can."""
    position = 0
    while position < size:
        try:
            start = os.lseek(old, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # nothing but a hole is left
            raise
        end = os.lseek(old, start, os.SEEK_HOLE)
        os.lseek(old, start, os.SEEK_SET)
        os.lseek(new, start, os.SEEK_SET)
        left = end - start
        while left:
            count = _copy_range(old, new, left)
            if not count:
                break
            left -= count
        position = end
    os.ftruncate(new, size)


def _copy_range(old: int, new: int, count: int) -> int:
    try:
        return os.copy_file_range(old, new, count)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return os.sendfile(new, old, None, count)


def copy_attributes(old: int, new: int, skip: tuple[str, ...] = ()) -> None:
    """Owner, mode, xattrs and times of an open file to another; `skip` = prefixes of xattrs to leave."""
    status = os.fstat(old)
    os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))
    for key in os.listxattr(old):
        if not key.startswith(skip):
            os.setxattr(new, key, os.getxattr(old, key))
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


def fd_path(directory: int, name: bytes) -> bytes:
    """A path to `name` in an open directory, for the few calls that have no \"at\" form (xattrs of symlinks)."""
    return b"/proc/self/fd/%d/%s" % (directory, name)
