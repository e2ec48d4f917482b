"""`Images` of dockerd on our containerd, without the rest of dockerd: what it publishes is kept."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from longshore.client import AsyncClient
from longshore.dockerd.config import Config
from longshore.dockerd.events import Events
from longshore.dockerd.images.store import Images
from longshore.dockerd.state import State
from longshore.zygote.client import Zygote
from support.daemon import Longshore


class Heard(Events):
    """Events as (action, actor, name)."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str, str]] = []

    def publish(
        self, type: str, action: str, actor_id: str, attributes: Mapping[str, str], scope: str = "local"
    ) -> None:
        self.heard.append((action, actor_id, attributes.get("name", "")))


def layer(name: str, size: int = 5000) -> bytes:
    """A tar of one file of zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = size
        tar.addfile(entry, io.BytesIO(bytes(size)))
    return buffer.getvalue()


@asynccontextmanager
async def images_on(
    daemon: Longshore, folder: Path, *, namespace: str = "", **settings: Any
) -> AsyncIterator[Images]:
    """`settings` are members of `Config`. The namespace is emptied of images afterwards."""
    events, config = Heard(), Config(data_root=str(folder), **settings)
    with State(str(folder / "state.db")) as state:
        async with AsyncClient(str(daemon.address), namespace or daemon.namespace) as client:
            images = Images(client, state, events, config, cast(Zygote, None))
            await images.start()
            try:
                yield images
            finally:
                await images.close()
                for image in await client.images.list():
                    await client.images.delete(image.name, sync=True)
