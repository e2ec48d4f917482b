"""Pushing: an image of the store to a registry, what it refers to first, its name last.

A blob the registry has is not sent; one that came from another repository of
the same registry (its label says so) is mounted from there. So after a failure
a second push sends only what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from longshore.api.errors import FailedPrecondition, NotFound
from longshore.client import oci
from longshore.client.content import ingest_ref
from longshore.client.registries import Progress, Report, message_of, options, sources, translated
from longshore.client.tasking import run_all
from longshore.registry.client import Options, Registry, Repository
from longshore.registry.documents import Descriptor, Document, read_document
from longshore.registry.errors import BadContent
from longshore.registry.platforms import Platform, choose
from longshore.registry.push import Pusher

if TYPE_CHECKING:
    from longshore.api.types.descriptor_pb2 import Descriptor as DescriptorMessage
    from longshore.client.client import AsyncClient

UPLOADS = 3


class Sending(NamedTuple):
    """Which image goes, and how; see `Images.push`."""

    source: str = ""
    target: DescriptorMessage | None = None
    platform: oci.Platform | None = None
    foreign_layers: bool = False
    uploads: int = UPLOADS


async def push(
    client: AsyncClient,
    name: str,
    sending: Sending,
    *,
    registry: Options | None = None,
    progress: Report | None = None,
) -> str:
    """See `Images.push`."""
    with translated(f"push {name}"):
        async with Registry(registry or options()) as door:
            repository = door.repository(name)
            target = sending.target
            if target is None:
                target = (await client.images.get(sending.source or str(repository.reference))).target
            work = _Push(client, repository, sending, progress)
            found = await work.choose(Descriptor(target.media_type, target.digest, target.size))
            await work.run(found)
            return found.digest


class _Push:
    def __init__(
        self,
        client: AsyncClient,
        repository: Repository,
        sending: Sending,
        progress: Report | None,
    ) -> None:
        self._client, self._reference = client, repository.reference
        self._pusher: Pusher = repository.pusher()
        self._slots = asyncio.Semaphore(max(sending.uploads, 1))
        self._foreign_layers, self._report_to = sending.foreign_layers, progress
        self._platform = Platform(*sending.platform) if sending.platform else None

    async def choose(self, target: Descriptor) -> Descriptor:
        """The target, or the manifest for the wanted platform out of an index."""
        platform = self._platform
        while platform is not None and target.is_index:
            index = await self._document(target)
            found = choose(index.manifests, platform)
            if found is None:
                raise NotFound(f"{self._reference} for {platform}: not found")
            target = found
        return target

    async def run(self, target: Descriptor) -> None:
        if not target.is_document:
            raise BadContent(f"{target.digest} is a {target.media_type}, which is no image")
        documents = await self._tree(target)
        await self._blobs(documents)
        for document in documents:
            name = self._reference.tag if document.descriptor.digest == target.digest else ""
            how = await self._pusher.manifest(document.descriptor, document.data, name)
            self._report(how.value, document.descriptor, document.descriptor.size)

    async def _tree(self, blob: Descriptor) -> list[Document]:
        """Manifests below a target, itself last; each once."""
        document = await self._document(blob)
        found: dict[str, Document] = {}
        for child in document.children:
            if child.is_document:
                found |= {below.descriptor.digest: below for below in await self._tree(child)}
        found.pop(blob.digest, None)
        return [*found.values(), document]

    async def _document(self, blob: Descriptor) -> Document:
        try:
            return read_document(blob, await self._client.content.read(blob.digest))
        except NotFound:
            what = f" for {blob.platform}" if blob.platform else ""
            error = NotFound(
                f"push {self._reference}: manifest {blob.digest}{what} is not in the store: not found"
            )
            error.hint = "push one platform with --platform, or pull the image with --all-platforms first"
            raise error from None

    async def _blobs(self, documents: Iterable[Document]) -> None:
        blobs = {
            child.digest: child
            for document in documents
            for child in document.children
            if not child.is_document and (self._foreign_layers or not child.is_foreign)
        }
        await run_all([self._blob(blob) for blob in blobs.values()])

    async def _blob(self, blob: Descriptor) -> None:
        async with self._slots:
            self._report("checking", blob, 0)
            how = await self._pusher.blob(
                blob, lambda offset: self._read(blob, offset), mount_from=await self._mounts(blob)
            )
            self._report(how.value, blob, blob.size)

    async def _mounts(self, blob: Descriptor) -> Sequence[str]:
        try:
            info = await self._client.content.info(blob.digest)
        except NotFound:
            return ()
        if info.size != blob.size:
            raise FailedPrecondition(
                f"push {self._reference}: blob {blob.digest} has {info.size} bytes, its manifest says {blob.size}"
            )
        return sources(info.labels, self._reference.domain)

    async def _read(self, blob: Descriptor, offset: int) -> AsyncIterator[bytes]:
        position = offset
        async for block in self._client.content.chunks(blob.digest, offset=offset):
            position += len(block)
            self._report("uploading", blob, position)
            yield block

    def _report(self, stage: str, blob: Descriptor, offset: int) -> None:
        if self._report_to is not None:
            name = ingest_ref(message_of(blob))
            self._report_to(Progress(stage, name, blob.digest, offset, blob.size))
