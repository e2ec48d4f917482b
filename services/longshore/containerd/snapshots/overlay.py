"""Snapshots as layers of an overlay mount, laid out as containerd's: ``snapshots/<number>/{fs,work}``.

Each snapshot is the upper directory of a mount; its parents' are the lower
ones. A snapshot without a parent is a plain directory, bound; and so is a view
of a single layer.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from longshore.containerd.snapshots.driver import Workers
from longshore.containerd.snapshots.snapshotter import Kind, Mount

_INDEX = Path("/sys/module/overlay/parameters/index")
_WHOLE_RANGE = (0, 0, 4294967295)


class OverlayDriver:
    def __init__(self, root: Path) -> None:
        self._snapshots = root / "snapshots"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._snapshots.mkdir(mode=0o700, exist_ok=True)
        self._options = _common_options()

    def directory(self, number: int) -> Path:
        return self._snapshots / str(number)

    def tree(self, number: int) -> Path:
        return self._snapshots / str(number) / "fs"

    async def make(self, number: int, parents: Sequence[int], kind: Kind, workers: Workers | None) -> None:
        await asyncio.to_thread(self.make_quickly, number, parents, kind)

    def make_quickly(self, number: int, parents: Sequence[int], kind: Kind) -> None:
        """See `QuickDriver`."""
        directory = f"{self._snapshots}/{number}"
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            shutil.rmtree(directory)
            os.mkdir(directory, 0o700)
        tree = f"{directory}/fs"
        os.mkdir(tree, 0o755)
        if kind == Kind.ACTIVE:
            os.mkdir(f"{directory}/work", 0o711)
        if parents:
            # The root of the mount shows owner and mode of the upper directory.
            below = os.stat(f"{self._snapshots}/{parents[0]}/fs")
            if (below.st_uid, below.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(tree, below.st_uid, below.st_gid)

    def mounts(self, number: int, parents: Sequence[int], kind: Kind) -> Sequence[Mount]:
        access = "ro" if kind == Kind.VIEW else "rw"
        if not parents:
            return [Mount("bind", str(self.tree(number)), (access, "rbind"))]
        if kind == Kind.VIEW and len(parents) == 1:
            return [Mount("bind", str(self.tree(parents[0])), ("ro", "rbind"))]
        options = list(self._options)
        if kind == Kind.ACTIVE:
            options += [f"workdir={self.directory(number) / 'work'}", f"upperdir={self.tree(number)}"]
        options.append("lowerdir=" + ":".join(str(self.tree(parent)) for parent in parents))
        return [Mount("overlay", "overlay", tuple(options))]


def _common_options() -> list[str]:
    options = []
    # An index would refuse the layers of one mount as those of another.
    if _INDEX.exists():
        options.append("index=off")
    if _in_user_namespace():
        options.append("userxattr")
    return options


def _in_user_namespace() -> bool:
    words = Path("/proc/self/uid_map").read_text().split()
    return tuple(map(int, words)) != _WHOLE_RANGE
