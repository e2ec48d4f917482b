"""What every container's own layer holds though nobody in it wrote it: `/.dockerenv`, and places to mount on.

Programs look for the file to learn where they are. `docker diff` doesn't show
these, as the original keeps them in a layer of their own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from longshore.dockerd.archive.view import rows_of
from longshore.layers import overlay, trees, worker
from longshore.linux import files

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

MARK: Final = ".dockerenv"
_ETC: Final = ("hosts", "hostname", "resolv.conf", "mtab")
_MTAB: Final = "/etc/mtab"
_STRICT: Final = files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS

_PLACES: Final = frozenset(
    f"/{name}"
    for name in (
        MARK,
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/mtab",
        "dev/console",
        "sbin/docker-init",
    )
)
_FOLDERS: Final = frozenset(
    ("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/proc", "/sys", "/sys/fs", "/sys/fs/cgroup")
)


def make(mounts: Sequence[Any]) -> None:
    """Put the mark, and what /etc must have, into a snapshot that isn't mounted: just made, or cleared before."""
    for upper in _uppers(mounts):
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(os.path.join(upper, MARK), flags, 0o755))
    plan = worker.upper_of(worker.mounts_of(rows_of(mounts)))
    if plan is not None:
        _fill_etc(*plan)


def _fill_etc(upper: str, lowers: list[str], prefix: str) -> None:
    """Places for the files that the network part binds, and mtab, which old programs read: where the image has none.

    The image's /etc comes up with all its attributes, so that it doesn't look changed.
    """
    with overlay.Lowers(lowers, prefix) as below:
        with below.find([b"etc"]) as etc:
            if etc is None or not stat.S_ISDIR(etc.status.st_mode):
                return
            old = os.open(b"etc", _DIRECTORY, dir_fd=etc.directory)
        try:
            missing = [name for name in _ETC if not _is_there(below, name)]
            if missing:
                _make_etc(os.path.join(upper, "etc"), old, missing)
        finally:
            os.close(old)


def _is_there(below: overlay.Lowers, name: str) -> bool:
    with below.find([b"etc", name.encode()]) as found:
        return found is not None


def _make_etc(target: str, old: int, names: Sequence[str]) -> None:
    try:
        os.mkdir(target, 0o700)
        brought = True
    except FileExistsError:
        brought = False  # the container's own by now: it keeps its attributes
    try:
        new = os.open(target, _DIRECTORY)
    except OSError:
        return  # the container has made something else of it
    try:
        before = os.fstat(new)
        for name in names:
            with suppress(FileExistsError):
                _make_one(new, name)
        if brought:
            trees.copy_attributes(old, new, skip=overlay.XATTR_PREFIXES)
        else:
            os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(new)


def _make_one(directory: int, name: str) -> None:
    if name == "mtab":
        os.symlink("/proc/mounts", name, dir_fd=directory)
        return
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=directory)
    os.fchmod(fd, 0o644)
    os.close(fd)


def clear(mounts: Iterable[Any]) -> None:
    """Take out of a stopped container's own layer what is ours and as empty as ever, before an image is made of it.

    A file that the image has below would only be hidden by ours: what stands
    in a lower layer was never made by the runtime, so nothing shows through.
    """
    for upper in _uppers(mounts):
        root = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in sorted(_PLACES):
                _clear(root, path)
        finally:
            os.close(root)


def _clear(root: int, path: str) -> None:
    folder, _, name = path.lstrip("/").rpartition("/")
    try:
        directory = files.openat2(root, folder or ".", os.O_PATH | os.O_DIRECTORY, 0, _STRICT)
    except OSError:
        return
    try:
        before = os.fstat(directory)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if is_ours(path, status) and (stat.S_ISREG(status.st_mode) or path == _MTAB):
            os.unlink(name, dir_fd=directory)
            times = (before.st_atime_ns, before.st_mtime_ns)
            os.utime(f"/proc/self/fd/{directory}", ns=times)
    except FileNotFoundError:
        pass
    finally:
        os.close(directory)


def _uppers(mounts: Iterable[Any]) -> Iterator[str]:
    for each in mounts:
        options = dict(word.partition("=")[::2] for word in each.options)
        if upper := options.get("upperdir") or (each.source if each.type in ("bind", "rbind") else ""):
            yield upper


def is_ours(path: str, status: os.stat_result) -> bool:
    """Whether an added thing is one of these, and still as empty as the runtime made it."""
    if stat.S_ISDIR(status.st_mode):
        return path in _FOLDERS
    return path in _PLACES and not (stat.S_ISREG(status.st_mode) and status.st_size)
