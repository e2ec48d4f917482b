"""What every container's own layer holds though nobody in it wrote it: `/.dockerenv`, and places to mount on.

Programs look for the file to learn where they are. `docker diff` doesn't show
these, as the original keeps them in a layer of their own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, Final

from longshore.linux import files

MARK: Final = ".dockerenv"
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


def make(mounts: Iterable[Any]) -> None:
    """Put the mark into a snapshot that has just been made, and that nobody has mounted yet."""
    for upper in _uppers(mounts):
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(os.path.join(upper, MARK), flags, 0o755))


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
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if is_ours(path, status) and stat.S_ISREG(status.st_mode):
            os.unlink(name, dir_fd=directory)
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
