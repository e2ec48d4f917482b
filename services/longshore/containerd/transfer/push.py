"""Image store to registry: blobs first, then manifests from the bottom, the tag last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from urllib.parse import urlsplit

from longshore.api import errors
from longshore.containerd.transfer.oci import SOURCE_LABEL
from longshore.containerd.transfer.progress import Progress
from longshore.containerd.transfer.shelf import Shelf
from longshore.containerd.transfer.tasking import running
from longshore.registry.client import Repository
from longshore.registry.documents import Descriptor, Document
from longshore.registry.errors import BadContent
from longshore.registry.platforms import Platform, choose
from longshore.registry.push import Pushed

_WORDS = {Pushed.EXISTS: "already exists", Pushed.MOUNTED: "mounted", Pushed.UPLOADED: "complete"}


class Push:
    def __init__(self, shelf: Shelf, repository: Repository, uploads: int, progress: Progress) -> None:
        self._shelf, self._reference, self._progress = shelf, repository.reference, progress
        self._pusher = repository.pusher()
        self._slots = asyncio.Semaphore(max(uploads, 1))

    async def run(self, target: Descriptor, platforms: Sequence[Platform]) -> None:
        """Push all of it, or the manifest of the first of `platforms` that an index has."""
        if not target.is_document:
            raise BadContent(f"{target.digest} is a {target.media_type}, which is no image")
        self._progress.say(f"Pushing to {self._reference}")
        target = await self._chosen(target, platforms)
        documents = await self._tree(target)
        await self._blobs(documents)
        for document in documents:
            blob = document.descriptor
            tag = self._reference.tag if blob.digest == target.digest else ""
            how = await self._pusher.manifest(blob, document.data, tag)
            self._progress.blob(_WORDS[how], blob, blob.size)
        self._progress.say(f"Completed push to {self._reference}", blob=target)

    async def _chosen(self, target: Descriptor, platforms: Sequence[Platform]) -> Descriptor:
        while platforms and target.is_index:
            entries = (await self._shelf.document(target)).manifests
            found = next(filter(None, (choose(entries, wanted) for wanted in platforms)), None)
            if found is None:
                raise errors.NotFound(f"push {self._reference}: {platforms[0]}: not found")
            target = found
        return target

    async def _tree(self, blob: Descriptor) -> list[Document]:
        """Manifests below a target, itself last; each once."""
        document = await self._shelf.document(blob)
        found: dict[str, Document] = {}
        for child in document.children:
            if child.is_document:
                found |= {below.descriptor.digest: below for below in await self._tree(child)}
        found.pop(blob.digest, None)
        return [*found.values(), document]

    async def _blobs(self, documents: Iterable[Document]) -> None:
        blobs = {
            child.digest: child
            for document in documents
            for child in document.children
            if not child.is_document and not child.is_foreign
        }
        async with running(self._blob(blob) for blob in blobs.values()):
            pass

    async def _blob(self, blob: Descriptor) -> None:
        self._progress.blob("waiting", blob)
        async with self._slots:
            info = await self._shelf.info(blob.digest)
            domain = urlsplit(f"//{self._reference.domain}").hostname or self._reference.domain
            known = info.labels.get(f"{SOURCE_LABEL}.{domain}", "")
            sources = [name for name in known.split(",") if name]
            how = await self._pusher.blob(blob, lambda offset: self._read(blob, offset), mount_from=sources)
        self._progress.blob(_WORDS[how], blob, blob.size)

    async def _read(self, blob: Descriptor, offset: int) -> AsyncIterator[bytes]:
        async for block in self._shelf.chunks(blob.digest, offset):
            offset += len(block)
            self._progress.blob("uploading", blob, offset)
            yield block
