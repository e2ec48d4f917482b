"""Copies into an image's tree as COPY makes them: over what is there, below one directory, following no link.

Paths of the image and of the context are resolved inside their roots. What is
copied is owned by whom the step names; like the original we change the owner
last, by which a set-user-ID bit and file capabilities are lost.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from longshore.dockerd.build.accounts import Owner
from longshore.layers import trees
from longshore.linux import files

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW = _DIRECTORY | os.O_NOFOLLOW
_MAX_LINKS = 40
_CAPABILITY = "security.capability"
_SECOND = 10**9


class How(NamedTuple):
    """`owner` None keeps the source's; `mode` None keeps the source's."""

    owner: Owner | None
    mode: int | None = None


def open_source(root: int, path: str) -> int:
    """An O_PATH descriptor of what `path` leads to, inside the root."""
    return files.open_in_root(root, path or "/", os.O_PATH)


def folder(root: int, path: str, owner: Owner | None) -> tuple[int, bool]:
    """The directory `path` in the root, opened for reading, and whether it was made; parents are made too, 0755.

    Raises NotADirectoryError if something else is there.
    """
    try:
        return files.open_in_root(root, path or "/", _DIRECTORY), False
    except FileNotFoundError:
        pass
    parent, name = place(root, path.rstrip("/"), owner)
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
        # Whatever the umask says.
        fd = os.open(name, _BELOW, dir_fd=parent)
        os.fchmod(fd, 0o755)
        if owner is not None:
            os.fchown(fd, *owner)
        return fd, True
    finally:
        os.close(parent)


def place(root: int, path: str, owner: Owner | None) -> tuple[int, str]:
    """The directory that holds `path` in the root, and its name there; what the path's last link points at."""
    for _ in range(_MAX_LINKS):
        parent, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            # It is a directory that exists, or can't be made.
            raise FileNotFoundError(errno.ENOENT, "no such file or directory", path)
        fd, _ = folder(root, parent, owner)
        try:
            target = os.readlink(name, dir_fd=fd)
        except OSError:
            return fd, name
        os.close(fd)
        path = target if target.startswith("/") else f"{parent}/{target}"
    raise OSError(errno.ELOOP, "too many levels of symbolic links", path)


def copy_file(source: int, parent: int, name: str, how: How) -> None:
    """The regular file (or node) behind the O_PATH descriptor `source` as `name`, in the place of what is there."""
    status = os.fstat(source)
    new = os.fsencode(name)
    _clear(parent, new)
    if stat.S_ISREG(status.st_mode):
        data = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _write(data, parent, new, status, how)
        finally:
            os.close(data)
    else:
        os.mknod(new, status.st_mode, status.st_rdev, dir_fd=parent)
        _finish(parent, new, status, how)


def copy_below(source: int, target: int, how: How) -> None:
    """What the directory `source` holds into the directory `target`; both stay open."""
    _Copier(source, target, how).run()


class _Level(NamedTuple):
    source: int
    target: int
    path: bytes
    subdirectories: list[bytes]
    status: os.stat_result | None


class _Copier:
    """Depth first with the descriptors of the way down, so that depth is bounded by descriptors, not recursion."""

    def __init__(self, source: int, target: int, how: How) -> None:
        self._source, self._target, self._how = source, target, how
        self._links: dict[trees.Identity, bytes] = {}

    def run(self) -> None:
        levels = [self._enter(os.dup(self._source), os.dup(self._target), b"", None)]
        while levels:
            level = levels[-1]
            if level.subdirectories:
                levels.append(self._descend(level, level.subdirectories.pop()))
                continue
            levels.pop()
            self._leave(level)

    def _enter(self, source: int, target: int, path: bytes, status: os.stat_result | None) -> _Level:
        subdirectories = []
        with os.scandir(source) as entries:
            names = sorted(os.fsencode(entry.name) for entry in entries)
        for name in names:
            found = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                subdirectories.append(name)
            elif not stat.S_ISSOCK(found.st_mode):
                self._copy(source, target, path, name, found)
        return _Level(source, target, path, subdirectories, status)

    def _descend(self, level: _Level, name: bytes) -> _Level:
        status = os.stat(name, dir_fd=level.source, follow_symlinks=False)
        source = os.open(name, _BELOW, dir_fd=level.source)
        try:
            os.mkdir(name, 0o755, dir_fd=level.target)
        except FileExistsError:
            if not _is_directory(level.target, name):
                _clear(level.target, name)
                os.mkdir(name, 0o755, dir_fd=level.target)
        target = os.open(name, _BELOW, dir_fd=level.target)
        return self._enter(source, target, level.path + name + b"/", status)

    def _leave(self, level: _Level) -> None:
        status = level.status
        if status is not None:
            os.fchown(level.target, *(self._how.owner or (status.st_uid, status.st_gid)))
            os.fchmod(level.target, _mode(status, self._how))
            os.utime(level.target, ns=_times(status))
        os.close(level.source)
        os.close(level.target)

    def _copy(self, source: int, target: int, path: bytes, name: bytes, status: os.stat_result) -> None:
        _clear(target, name)
        first = self._links.get(trees.identity(status)) if status.st_nlink > 1 else None
        if first is not None:
            os.link(first, name, src_dir_fd=self._target, dst_dir_fd=target, follow_symlinks=False)
            return
        if status.st_nlink > 1:
            self._links[trees.identity(status)] = path + name
        if stat.S_ISREG(status.st_mode):
            data = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            try:
                _write(data, target, name, status, self._how)
            finally:
                os.close(data)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        _finish(target, name, status, self._how)


def _write(data: int, parent: int, name: bytes, status: os.stat_result, how: How) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        trees.copy_data(data, fd, status.st_size)
        if how.owner is None:
            os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, _mode(status, how))
        _copy_capability(data, fd)
        if how.owner is not None:
            os.fchown(fd, *how.owner)
        os.utime(fd, ns=_times(status))
    finally:
        os.close(fd)


def _copy_capability(old: int, new: int) -> None:
    try:
        os.setxattr(new, _CAPABILITY, os.getxattr(old, _CAPABILITY))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise


def _finish(parent: int, name: bytes, status: os.stat_result, how: How) -> None:
    """Owner, mode and time of a link or node."""
    uid, gid = how.owner or (status.st_uid, status.st_gid)
    os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, _mode(status, how), dir_fd=parent)
    os.utime(name, ns=_times(status), dir_fd=parent, follow_symlinks=False)


def _mode(status: os.stat_result, how: How) -> int:
    return stat.S_IMODE(status.st_mode) if how.mode is None else how.mode


def _times(status: os.stat_result) -> tuple[int, int]:
    """Whole seconds, as a tar would have carried them."""
    whole = status.st_mtime_ns // _SECOND * _SECOND
    return whole, whole


def _is_directory(parent: int, name: bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _clear(parent: int, name: bytes) -> None:
    trees.remove(parent, name)


def walk(root: int, keep: Callable[[str], bool]) -> Iterator[str]:
    """Paths of everything below the directory, in order, for which `keep` holds; links aren't followed."""
    pending = [""]
    while pending:
        path = pending.pop()
        if path and keep(path):
            yield path
        try:
            fd = os.open(path or ".", _BELOW, dir_fd=root)
        except (NotADirectoryError, FileNotFoundError):
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:
                continue
            raise
        try:
            names = sorted(os.listdir(fd), reverse=True)
        finally:
            os.close(fd)
        pending += [f"{path}/{name}" if path else name for name in names]
