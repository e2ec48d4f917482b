"""Snapshotters and differs from other Python packages, by entry points.

    [project.entry-points."longshore.snapshotters"]
    reflink = "mypackage:ReflinkDriver"        # called with its root directory, gives a Driver

    [project.entry-points."longshore.differs"]
    squash = "mypackage:SquashDiffer"          # called with the content store, gives a Differ

The name is that of the plugin. Packages are asked once, when the daemon starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from longshore.api import errors

SNAPSHOTTERS: Final = "longshore.snapshotters"
DIFFERS: Final = "longshore.differs"


def found(group: str) -> Iterator[tuple[str, Callable[..., Any] | errors.Error]]:
    """Each name with what to call, or why it can't be."""
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        yield entry.name, _loaded(entry)


def _loaded(entry: EntryPoint) -> Callable[..., Any] | errors.Error:
    try:
        loaded: Callable[..., Any] = entry.load()
    except Exception as error:  # whatever a strange module does when it is imported
        return errors.Error(f"{entry.value} can't be loaded: {error}")
    return loaded
