"""What a container's upper directory changed on its image, as `docker diff` lists it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from longshore.dockerd.archive import marks
from longshore.layers import overlay

MODIFIED, ADDED, DELETED = range(3)

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def of(upper: str, lowers: list[str], prefix: str) -> list[tuple[str, int]]:
    """(path, kind), sorted; a directory that holds a change is one itself."""
    found: dict[str, int] = {}
    touched: set[str] = set()
    really: set[str] = set()
    with overlay.Lowers(lowers, prefix) as below:
        for parts, status in _walk(upper):
            with below.find(parts) as was:
                old = None if was is None else was.status
            names = [part.decode("utf-8", "backslashreplace") for part in parts]
            kind = _kind(status, old)
            if kind == ADDED and marks.is_ours("/" + "/".join(names), status):
                touched.add("/" + "/".join(names[:-1]))
            elif kind is not None:
                _note(found, names, kind)
                if old is not None and not _only_times(status, old):
                    really.add("/" + "/".join(names))
    for path in touched - really:
        # Its time changed because of what we don't show.
        if found.get(path) == MODIFIED and not any(other.startswith(path + "/") for other in found):
            del found[path]
    return sorted(found.items())


def size(upper: str) -> int:
    """Bytes in regular files, each counted once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for _, status in _walk(upper):
        if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total


def _only_times(new: os.stat_result, old: os.stat_result) -> bool:
    return (new.st_mode, new.st_uid, new.st_gid) == (old.st_mode, old.st_uid, old.st_gid)


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
    if both and _only_times(new, old) and new.st_mtime_ns == old.st_mtime_ns:
        return None
    return MODIFIED


def _note(found: dict[str, int], names: list[str], kind: int) -> None:
    for length in range(1, len(names)):
        found.setdefault("/" + "/".join(names[:length]), MODIFIED)
    found["/" + "/".join(names)] = kind
