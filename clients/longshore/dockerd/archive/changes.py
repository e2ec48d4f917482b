"""What a container's upper directory changed on its image, as `docker diff` lists it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from longshore.layers import overlay

MODIFIED, ADDED, DELETED = range(3)

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def of(upper: str, lowers: list[str], prefix: str) -> list[tuple[str, int]]:
    """(path, kind), sorted; a directory that holds a change is one itself."""
    found: dict[str, int] = {}
    with overlay.Lowers(lowers, prefix) as below:
        for parts, status in _walk(upper):
            with below.find(parts) as was:
                kind = _kind(status, None if was is None else was.status)
            if kind is not None:
                _note(found, parts, kind)
    return sorted(found.items())


def _walk(upper: str) -> Iterator[tuple[list[bytes], os.stat_result]]:
    """Everything below, a directory before what is in it."""
    pending: list[tuple[bytes, list[bytes]]] = [(os.fsencode(upper), [])]
    while pending:
        path, parts = pending.pop()
        fd = os.open(path, _OPEN)
        try:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield [*parts, name], status
                if stat.S_ISDIR(status.st_mode):
                    pending.append((path + b"/" + name, [*parts, name]))
        except FileNotFoundError:
            continue
        finally:
            os.close(fd)


def _kind(new: os.stat_result, old: os.stat_result | None) -> int | None:
    if overlay.is_whiteout(new):
        return DELETED if old is not None else None
    if old is None:
        return ADDED
    both = stat.S_ISDIR(new.st_mode) and stat.S_ISDIR(old.st_mode)
    # A directory is copied up with its times whenever something in it changes.
    if both and (new.st_mode, new.st_uid, new.st_gid, new.st_mtime_ns) == (
        old.st_mode,
        old.st_uid,
        old.st_gid,
        old.st_mtime_ns,
    ):
        return None
    return MODIFIED


def _note(found: dict[str, int], parts: list[bytes], kind: int) -> None:
    names = [part.decode("utf-8", "backslashreplace") for part in parts]
    for length in range(1, len(names)):
        found.setdefault("/" + "/".join(names[:length]), MODIFIED)
    found["/" + "/".join(names)] = kind
