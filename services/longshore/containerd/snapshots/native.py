"""Snapshots as full copies: slow and big, and right on every filesystem. ``snapshots/<number>`` is the tree."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from longshore.containerd.snapshots.driver import Workers
from longshore.containerd.snapshots.snapshotter import Kind, Mount
from longshore.layers import worker


class NativeDriver:
    def __init__(self, root: Path) -> None:
        self._snapshots = root / "snapshots"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._snapshots.mkdir(mode=0o700, exist_ok=True)

    def directory(self, number: int) -> Path:
        return self._snapshots / str(number)

    tree = directory

    async def make(self, number: int, parents: Sequence[int], kind: Kind, workers: Workers | None) -> None:
        if kind == Kind.VIEW and parents:
            return  # shows its parent, which doesn't change
        tree = self.directory(number)
        await asyncio.to_thread(_fresh, tree)
        if parents:
            arguments = {"source": str(self.directory(parents[0])), "target": str(tree)}
            if workers is None:
                await asyncio.to_thread(worker.copy, arguments, ())
            else:
                await workers.call("longshore.layers.worker:copy", arguments)

    def mounts(self, number: int, parents: Sequence[int], kind: Kind) -> Sequence[Mount]:
        shown, access = (number, "rw") if kind == Kind.ACTIVE else (parents[0] if parents else number, "ro")
        return [Mount("bind", str(self.directory(shown)), ("rbind", access))]


def _fresh(directory: Path) -> None:
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        shutil.rmtree(directory)
        os.mkdir(directory, 0o755)
