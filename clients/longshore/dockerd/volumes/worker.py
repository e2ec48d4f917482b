"""Work on whole trees, done in forked workers: nothing here runs in dockerd itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

from longshore.layers import trees, worker
from longshore.linux import files

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def fill(arguments: dict[str, Any], fds: Sequence[int]) -> list[str]:
    """Copy what a root file system has at some places into volumes that are still empty.

    rootfs   its directory, or ""
    mounts   else how to mount it, in this process's own namespace: [type, source, [options], target]
    scratch  an existing directory to mount it on
    copies   list of [place in the root, directory of the volume]

    Returns the places that were copied. A place that isn't there, or is no
    directory, is left alone. Links in the root stay within the root.
    """
    root = _root(arguments)
    return [place for place, directory in arguments["copies"] if _copied(root, place, directory)]


def present(arguments: dict[str, Any], fds: Sequence[int]) -> list[str]:
    """Those of ``places`` that are directories in a root file system, which is given as for `fill`."""
    root = _root(arguments)
    return [place for place in arguments["places"] if _opened(root, place) is not None]


def _root(arguments: dict[str, Any]) -> int:
    path = arguments["rootfs"] or worker.mounted_at(
        worker.mounts_of(arguments["mounts"]), arguments["scratch"]
    )
    return os.open(path, _DIRECTORY)


def _opened(root: int, place: str) -> int | None:
    try:
        return files.open_in_root(root, place, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _copied(root: int, place: str, directory: str) -> bool:
    source = _opened(root, place)
    if source is None:
        return False
    target = os.open(directory, _DIRECTORY | os.O_NOFOLLOW)
    if os.listdir(target):
        return False
    trees.copy_tree(source, target)
    os.close(source)
    os.close(target)
    return True


def remove(arguments: dict[str, Any], fds: Sequence[int]) -> None:
    """Remove ``names`` in ``directory`` with all below."""
    worker.remove(arguments, fds)


def measure(arguments: dict[str, Any], fds: Sequence[int]) -> list[int]:
    """The bytes in the files of each of ``paths`` (as they are long, not as they lie on disk); -1 if missing."""
    return [_size(os.fsencode(path)) for path in arguments["paths"]]


def _size(path: bytes) -> int:
    if not os.path.isdir(path):
        return -1
    total = 0
    seen: set[trees.Identity] = set()
    for status in trees.statuses(path):
        if stat.S_ISDIR(status.st_mode) or trees.identity(status) in seen:
            continue
        if status.st_nlink > 1:
            seen.add(trees.identity(status))
        total += status.st_size
    return total
