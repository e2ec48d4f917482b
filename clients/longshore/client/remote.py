"""Single objects of a registry: what a name stands for, one blob, one manifest; nothing is recorded.

Pulling and pushing whole images is `Images.pull` and `Images.push`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from longshore.api.errors import DataLoss
from longshore.api.types.descriptor_pb2 import Descriptor as DescriptorMessage
from longshore.client.content import ingest_ref
from longshore.client.registries import Options, message_of, options, translated
from longshore.registry import shapes
from longshore.registry.documents import Descriptor

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.registry.client import Repository


class Remote:
    """One repository. Errors are those of `longshore.api.errors`, with a hint."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def resolve(self) -> DescriptorMessage:
        """What the name is now. Raises NotFound."""
        with translated(f"resolve {self._repository.reference}"):
            return message_of(await self._repository.resolve())

    async def tags(self) -> list[str]:
        """All tags of the repository, sorted. Raises NotFound."""
        with translated(f"list the tags of {self._repository.reference.repository}"):
            return await self._repository.tags()

    async def fetch(self, blob: DescriptorMessage) -> AsyncIterator[bytes]:
        """The bytes of a manifest or blob, checked; `size` must be known."""
        found = Descriptor(blob.media_type, blob.digest, blob.size)
        with translated(f"fetch {blob.digest}"):
            if found.is_document:
                yield await self._repository.read(found)
                return
            async for block in self._repository.open(found):
                yield block

    async def push(self, client: AsyncClient, blob: DescriptorMessage) -> str:
        """Send one object of the store: a manifest under the repository's tag, a blob as it is. How it got there."""
        found = Descriptor(blob.media_type, blob.digest, blob.size)
        with translated(f"push {blob.digest}"):
            pusher = self._repository.pusher()
            if found.is_document:
                data = await client.content.read(blob.digest)
                return (await pusher.manifest(found, data, self._repository.reference.tag)).value
            opened = await pusher.blob(found, lambda at: client.content.chunks(blob.digest, offset=at))
            return opened.value


@asynccontextmanager
async def remote(name: str, registry: Options | None = None) -> AsyncIterator[Remote]:
    """The repository of a full name (``localhost:5000/box:1``), for the block."""
    from longshore.registry.client import Registry

    with translated(name):
        door = Registry(registry or options())
        repository = door.repository(name)
    async with door:
        yield Remote(repository)


def parsed(blob: DescriptorMessage, data: bytes) -> dict[str, Any]:
    """A manifest or index. Raises DataLoss."""
    try:
        return shapes.parse(data)
    except ValueError as error:
        raise DataLoss(f"{blob.digest} is no manifest: {error}: data loss") from None


async def fetch_metadata(
    client: AsyncClient, name: str, registry: Options | None = None
) -> DescriptorMessage:
    """Store the manifests and configurations of every platform, without layers, and record the image.

    Answers the image's target. A later pull adds what is missing.
    """
    from longshore.client import oci, references

    async def store(door: Remote, blob: DescriptorMessage) -> None:
        data = b"".join([block async for block in door.fetch(blob)])
        document = parsed(blob, data) if blob.media_type in oci.INDEXES | oci.MANIFESTS else {}
        labels = oci.gc_labels(document) if document else None
        await leased.content.write(ingest_ref(blob), data, labels=labels)
        if "manifests" in document:
            for child in oci.children(document):
                await store(door, child)
        elif document.get("config"):
            await store(door, oci.descriptor(document["config"]))

    full = str(references.parse(name))
    async with client.leased() as leased, remote(name, registry) as found:
        target = await found.resolve()
        await store(found, target)
        await leased.images.create(full, target, replace=True)
    return target
