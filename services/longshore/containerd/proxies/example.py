"""An example: snapshots as copies that share their blocks where the file system can (btrfs, XFS), in sixty lines.

    python -m longshore.containerd.proxies.serve --driver longshore.containerd.proxies.example:CopyDriver \\
        --root /var/lib/copies --address /run/copies.sock

and in the config.toml of any containerd:

    [proxy_plugins.copies]
      type = "snapshot"
      address = "/run/copies.sock"
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from longshore.containerd.snapshots.driver import Workers
from longshore.containerd.snapshots.snapshotter import Kind, Mount


class CopyDriver:
    """Snapshot 7 is the directory ``<root>/7``, whole: whoever mounts it needs nothing else."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root

    def directory(self, number: int) -> Path:
        return self._root / str(number)

    tree = directory

    async def make(self, number: int, parents: Sequence[int], kind: Kind, workers: Workers | None) -> None:
        """A copy of the nearest parent; a view needs none, since its parent never changes."""
        target = self.directory(number)
        if target.exists():  # a crash left it half made
            await asyncio.to_thread(shutil.rmtree, target)
        if kind == Kind.VIEW and parents:
            return
        if not parents:
            target.mkdir(mode=0o755)
            return
        copy = await asyncio.create_subprocess_exec(
            *("cp", "-a", "--reflink=auto", str(self.directory(parents[0])), str(target)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaint = await copy.communicate()
        if copy.returncode:
            raise OSError(5, complaint.decode(errors="replace").strip())

    def mounts(self, number: int, parents: Sequence[int], kind: Kind) -> Sequence[Mount]:
        """The same answer for as long as it lives, also after a restart."""
        shown = parents[0] if kind == Kind.VIEW and parents else number
        access = "ro" if kind == Kind.VIEW else "rw"
        return [Mount("bind", str(self.directory(shown)), ("rbind", access))]
