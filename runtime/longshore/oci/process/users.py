"""The container's /etc/passwd and /etc/group, read by ourselves.

Never pwd or grp: they would load the image's NSS libraries. A file that isn't a
regular one (a FIFO would hang us) or is absurdly large counts as absent.
"""

from __future__ import annotations

import os
import stat

from longshore.linux import files

_LIMIT = 4 << 20


def _lines(root: int, path: str) -> list[list[str]]:
    try:
        fd = files.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        text = files.read_fd(fd, _LIMIT).decode("utf-8", "surrogateescape")
    except OSError:
        return []
    finally:
        os.close(fd)
    return [line.split(":") for line in text.split("\n") if line and not line.startswith("#")]


def home(root: int, uid: int) -> str:
    """The home directory of ``uid``, "/" if there is no usable entry."""
    for fields in _lines(root, "/etc/passwd"):
        if len(fields) >= 6 and fields[2].isdecimal() and int(fields[2]) == uid:
            return fields[5] or "/"
    return "/"


def find_user(root: int, name: str) -> tuple[int, int] | None:
    """(uid, gid) of a user by name."""
    for fields in _lines(root, "/etc/passwd"):
        if len(fields) >= 4 and fields[0] == name and fields[2].isdecimal() and fields[3].isdecimal():
            return int(fields[2]), int(fields[3])
    return None


def find_group(root: int, name: str) -> int | None:
    """gid of a group by name."""
    for fields in _lines(root, "/etc/group"):
        if len(fields) >= 3 and fields[0] == name and fields[2].isdecimal():
            return int(fields[2])
    return None
