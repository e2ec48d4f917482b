"""What a directory-based snapshotter must know that others don't: see `LocalSnapshotter` for all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from longshore.containerd.snapshots.snapshotter import Kind, Mount


class Workers(Protocol):
    """Where long file work runs: a `Zygote`."""

    async def call(self, function: str, arguments: object, fds: Sequence[int] = ()) -> Any: ...


class Driver(Protocol):
    """Trees in directories. Snapshots are known by number here; numbers are never used twice.

    `parents` are the numbers of all snapshots below, the nearest first. Methods
    other than `make` are quick and don't fail. All may be called in threads.
    """

    def directory(self, number: int) -> Path:
        """All that belongs to the snapshot stands below this directory and nothing else does."""

    def tree(self, number: int) -> Path:
        """The directory whose disk usage is the snapshot's."""

    async def make(self, number: int, parents: Sequence[int], kind: Kind, workers: Workers | None) -> None:
        """Make the directories of a new snapshot. What stands there was left by a crash: it goes. May raise OSError."""

    def mounts(self, number: int, parents: Sequence[int], kind: Kind) -> Sequence[Mount]:
        """How to see it. Kind is ACTIVE or VIEW."""


@runtime_checkable
class QuickDriver(Driver, Protocol):
    """A driver whose `make` is a few system calls, which then are done in the transaction of the row: a turn less."""

    def make_quickly(self, number: int, parents: Sequence[int], kind: Kind) -> None:
        """As `make`, in the store's writer thread; may be called twice for a number."""
