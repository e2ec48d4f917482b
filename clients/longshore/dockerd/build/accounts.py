"""Users and groups of an image, from its own /etc/passwd and /etc/group."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from longshore.linux import files

_LIMIT = 1 << 20
_MAX_ID = (1 << 32) - 2


class Owner(NamedTuple):
    uid: int
    gid: int


def owner(root: int, text: str) -> Owner:
    """USER[:GROUP] of `--chown`, by name or number; the group is by default named as the user is.

    Raises ValueError with the original's words.
    """
    user, colon, group = text.partition(":")
    if colon and ":" in group:
        raise ValueError(f"invalid chown string format: {text}")
    group = group if colon else user
    uid = _id(root, user, "/etc/passwd")
    if uid is None:
        raise ValueError(f"can't find uid for user {user}: no such user: {user}")
    gid = _id(root, group, "/etc/group")
    if gid is None:
        raise ValueError(f"can't find gid for group {group}: no such group: {group}")
    return Owner(uid, gid)


def _id(root: int, name: str, path: str) -> int | None:
    if name.isascii() and name.isdigit():
        number = int(name)
        if number > _MAX_ID:
            raise ValueError(f"{name} is no ID")
        return number
    for line in _lines(root, path):
        fields = line.split(":")
        if fields[0] == name and len(fields) > 2 and fields[2].isascii() and fields[2].isdigit():
            return int(fields[2])
    return None


def _lines(root: int, path: str) -> list[str]:
    """Of a regular file; nothing else is opened to be read (a FIFO would never answer)."""
    try:
        fd = files.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        return files.read_fd(fd, _LIMIT).decode(errors="replace").splitlines()
    finally:
        os.close(fd)
