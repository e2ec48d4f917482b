"""What one build has at hand: the daemon's parts, its folder, its lease, and what it has made so far."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from longshore.api.errors import NotFound
from longshore.client import AsyncClient, oci
from longshore.dockerd.build.options import Options
from longshore.dockerd.build.output import Output
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.errors import ServerError
from longshore.dockerd.images import names
from longshore.dockerd.images.catalogue import SNAPSHOTTER

if TYPE_CHECKING:
    from longshore.api.types.mount_pb2 import Mount
    from longshore.dockerd.backend.containers import Containers
    from longshore.dockerd.images.store import Images
    from longshore.zygote.client import Zygote

SCRATCH: Final = "scratch"
Rows = list[list[Any]]


@dataclass
class Work:
    options: Options
    output: Output
    images: Images
    containers: Containers
    zygote: Zygote
    client: AsyncClient
    """Its calls carry the build's lease."""
    folder: str
    """Goes with the build."""
    context: str = ""
    """The folder of the sources, "" where there are none."""
    escape: str = "\\"
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _folders: int = 0

    def new_folder(self, name: str) -> str:
        """A fresh one in the build's."""
        self._folders += 1
        path = os.path.join(self.folder, f"{name}{self._folders}")
        os.mkdir(path, 0o700)
        return path

    @asynccontextmanager
    async def snapshot(self, image: ImageInfo | None) -> AsyncIterator[tuple[str, Rows]]:
        """A writable copy of an image's tree (None: an empty one): its key, and how to mount it."""
        key = f"build-{secrets.token_hex(8)}"
        snapshots = self.client.snapshots(SNAPSHOTTER)
        try:
            yield key, rows(await snapshots.prepare(key, image.chain_id if image else ""))
        finally:
            with suppress(NotFound):
                await asyncio.shield(snapshots.remove(key))

    @asynccontextmanager
    async def view(self, image: ImageInfo) -> AsyncIterator[Rows]:
        """How to mount an image's tree to read it."""
        key = f"build-{secrets.token_hex(8)}"
        snapshots = self.client.snapshots(SNAPSHOTTER)
        try:
            yield rows(await snapshots.view(key, image.chain_id))
        finally:
            with suppress(NotFound):
                await asyncio.shield(snapshots.remove(key))

    async def image(self, name: str, platform: oci.Platform | None = None) -> ImageInfo:
        """By name; pulled if it isn't here, or if the client wishes so. `platform` is by default the build's."""
        platform = platform or self.options.platform
        if self.options.pull and names.id_prefix(name) == "":
            await self._pull(name, platform)
        try:
            found = await self.images.resolve(name)
        except NotFound:
            await self._pull(name, platform)
            found = await self.images.resolve(name)
        self._check_platform(name, found, platform)
        return found

    async def _pull(self, name: str, platform: oci.Platform | None) -> None:
        reference = names.parse(name)
        async for line in self.images.pull(reference, self.options.auth(reference), platform):
            await self.output.line(line)

    def _check_platform(self, name: str, image: ImageInfo, wanted: oci.Platform | None) -> None:
        if wanted is None:
            return
        actual = f"{image.config.get('os')}/{image.config.get('architecture')}"
        if actual != f"{wanted.os}/{wanted.architecture}":
            raise ServerError(
                f"image with reference {name} was found but does not match the specified platform:"
                f" wanted {wanted}, actual: {actual}"
            )


def rows(mounts: list[Mount]) -> Rows:
    """Mounts as workers take them."""
    return [[each.type, each.source, list(each.options), each.target] for each in mounts]
