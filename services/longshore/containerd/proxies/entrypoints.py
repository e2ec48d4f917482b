"""Snapshotters and differs from other Python packages, by entry points.

    [project.entry-points."longshore.snapshotters"]
    reflink = "mypackage:ReflinkDriver"        # called with its root directory, gives a Driver

    [project.entry-points."longshore.differs"]
    squash = "mypackage:SquashDiffer"          # called with the content store, gives a Differ

The name is that of the plugin. Packages are asked once, when the daemon starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from longshore.api import errors

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

SNAPSHOTTERS: Final = "longshore.snapshotters"
DIFFERS: Final = "longshore.differs"

_METADATA: Final = (".dist-info", ".egg-info", ".egg")


def found(group: str) -> Iterator[tuple[str, Callable[..., Any] | errors.Error]]:
    """Each name with what to call, or why it can't be."""
    if not named(group, sys.path):
        return
    for entry in sorted(_entry_points(group), key=lambda entry: entry.name):
        yield entry.name, _loaded(entry)


def named(group: str, path: Sequence[str]) -> bool:
    """Whether a package on the path may have entry points of the group: most daemons start without any.

    Looking at the files takes a tenth of the 20 ms that importing `importlib.metadata` does.
    """
    return any(_named_in(group.encode(), folder) for folder in path)


def _named_in(group: bytes, folder: str) -> bool:
    try:
        names = os.listdir(folder or ".")
    except NotADirectoryError:
        return True  # an archive: it is asked
    except OSError:
        return False
    return any(_names(group, os.path.join(folder, name)) for name in names if name.endswith(_METADATA))


def _names(group: bytes, metadata: str) -> bool:
    if metadata.endswith(".egg"):
        return True
    try:
        with open(os.path.join(metadata, "entry_points.txt"), "rb") as file:
            return group in file.read()
    except OSError:
        return False


def _entry_points(group: str) -> Sequence[EntryPoint]:
    from importlib.metadata import entry_points

    return tuple(entry_points(group=group))


def _loaded(entry: EntryPoint) -> Callable[..., Any] | errors.Error:
    try:
        loaded: Callable[..., Any] = entry.load()
    except Exception as error:  # whatever a strange module does when it is imported
        return errors.Error(f"{entry.value} can't be loaded: {error}")
    return loaded
