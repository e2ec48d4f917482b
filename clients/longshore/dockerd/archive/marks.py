"""What every container's own layer holds though nobody in it wrote it: `/.dockerenv`, and places to mount on.

Programs look for the file to learn where they are. `docker diff` doesn't show
these, as the original keeps them in a layer of their own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any, Final

MARK: Final = ".dockerenv"

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
    for each in mounts:
        options = dict(word.partition("=")[::2] for word in each.options)
        upper = options.get("upperdir") or (each.source if each.type in ("bind", "rbind") else "")
        if upper:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(os.path.join(upper, MARK), flags, 0o755))


def is_ours(path: str, status: os.stat_result) -> bool:
    """Whether an added thing is one of these, and still as empty as the runtime made it."""
    if stat.S_ISDIR(status.st_mode):
        return path in _FOLDERS
    return path in _PLACES and not (stat.S_ISREG(status.st_mode) and status.st_size)
