"""A path that a client names in a container: which directory it ends in, and what its last part is.

As the API has it, links on the way are followed and one at the end is not,
unless the path ends in "/" or "/.".
"""

from __future__ import annotations

import os
import stat
from typing import Any, NamedTuple

from longshore.linux import files

_PATH = os.O_PATH | os.O_CLOEXEC

# The bits of Go's file modes, which the header carries.
_GO_MODES = (
    (stat.S_ISDIR, 1 << 31),
    (stat.S_ISLNK, 1 << 27),
    (stat.S_ISBLK, 1 << 26),
    (stat.S_ISCHR, 1 << 26 | 1 << 21),
    (stat.S_ISFIFO, 1 << 25),
    (stat.S_ISSOCK, 1 << 24),
)
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))
_LINKS = 40


class Found(NamedTuple):
    directory: int
    """An O_PATH descriptor."""
    name: str
    """In it; "." is itself."""
    shown: str
    """As the client called it: what stands first in names of an archive."""
    status: os.stat_result


def split(path: str) -> tuple[str, str, str]:
    """(directory, last part, what the client calls it); the directory is absolute, the last part "." or a name."""
    absolute = "/" + path.lstrip("/")
    parts = [part for part in absolute.split("/") if part]
    shown = parts[-1] if parts else "/"
    if absolute.endswith("/") or shown in (".", ".."):
        return absolute, ".", shown
    return "/" + "/".join(parts[:-1]), shown, shown


def find(root: int, path: str) -> Found:
    """Raises FileNotFoundError, NotADirectoryError."""
    where, name, shown = split(path)
    directory = files.open_in_root(root, where, _PATH | os.O_DIRECTORY)
    return Found(directory, name, shown, os.stat(name, dir_fd=directory, follow_symlinks=False))


def go_mode(mode: int) -> int:
    """Permission bits and kind as Go's os.FileMode has them."""
    bits = stat.S_IMODE(mode) & 0o777
    for test, bit in _GO_MODES:
        bits |= bit if test(mode) else 0
    for flag, bit in _GO_BITS:
        bits |= bit if mode & flag else 0
    return bits


def describe(root: int, path: str, found: Found) -> dict[str, Any]:
    """The container's path statistics, times in nanoseconds."""
    status = found.status
    return {
        "name": found.shown,
        "size": status.st_size,
        "mode": go_mode(status.st_mode),
        "mtime_ns": status.st_mtime_ns,
        "linkTarget": target(root, path) if stat.S_ISLNK(status.st_mode) else "",
    }


def target(root: int, path: str) -> str:
    """Where a link ends, as an absolute path of the container without links; it need not exist."""
    pending = [part for part in path.split("/") if part]
    walked: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part in (".", ".."):
            walked = walked[: -1 if part == ".." else None]
            continue
        link = _link(root, walked, part) if links < _LINKS else None
        if link is None:
            walked.append(part)
            continue
        links += 1
        walked = [] if link.startswith("/") else walked
        pending = [word for word in link.split("/") if word] + pending
    return "/" + "/".join(walked)


def _link(root: int, walked: list[str], name: str) -> str | None:
    try:
        directory = files.open_in_root(root, "/" + "/".join(walked), _PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None
    finally:
        os.close(directory)
