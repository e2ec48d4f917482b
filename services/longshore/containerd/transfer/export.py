"""Writing image archives: an OCI layout with, for Docker's sake, a manifest.json, as one tar stream."""

from __future__ import annotations

import json
import tarfile
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple

from longshore.api import errors
from longshore.api.services.images.v1.images_pb2 import Image
from longshore.containerd.transfer import oci
from longshore.containerd.transfer.shelf import Shelf
from longshore.registry.documents import Descriptor, Document
from longshore.registry.platforms import Platform, choose

_BLOCK: Final = tarfile.BLOCKSIZE


class How(NamedTuple):
    """`platforms` (none: all) that an index is cut down to; what to leave out."""

    platforms: tuple[Platform, ...] = ()
    without_compatibility: bool = False
    without_foreign: bool = False


async def archive(shelf: Shelf, images: Sequence[Image], how: How) -> AsyncIterator[bytes]:
    """The tar in pieces. Raises NotFound for an image whose content isn't all there."""
    export = _Export(shelf, how)
    yield _entry("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    for image in images:
        async for data in export.image(image):
            yield data
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    yield _entry("index.json", json.dumps({**index, "manifests": export.entries}).encode())
    if export.compatible and not how.without_compatibility:
        yield _entry("manifest.json", json.dumps(export.compatible).encode())
    yield bytes(2 * _BLOCK)


class _Export:
    def __init__(self, shelf: Shelf, how: How) -> None:
        self._shelf, self._how = shelf, how
        self._written: set[str] = set()
        self.entries: list[dict[str, Any]] = []
        self.compatible: list[dict[str, Any]] = []

    async def image(self, image: Image) -> AsyncIterator[bytes]:
        target = await self._target(oci.of_message(image.target))
        annotations = {oci.NAME_ANNOTATION: image.name, oci.REF_ANNOTATION: _tag(image.name)}
        entry = {"mediaType": target.media_type, "digest": target.digest, "size": target.size}
        self.entries.append({**entry, "annotations": annotations})
        manifests: list[Document] = []
        async for data in self._tree(target, manifests):
            yield data
        if len(manifests) == 1 and manifests[0].config is not None:
            self.compatible.append(
                {
                    "Config": _path(manifests[0].config.digest),
                    "RepoTags": [image.name],
                    "Layers": [_path(layer.digest) for layer in manifests[0].layers],
                }
            )

    async def _target(self, target: Descriptor) -> Descriptor:
        """With one platform wanted, its manifest instead of the index."""
        if len(self._how.platforms) == 1 and target.is_index:
            found = choose((await self._shelf.document(target)).manifests, self._how.platforms[0])
            if found is None:
                raise errors.NotFound(f"{target.digest} for {self._how.platforms[0]}: not found")
            return found
        return target

    async def _tree(self, blob: Descriptor, manifests: list[Document]) -> AsyncIterator[bytes]:
        if not blob.is_document:
            async for data in self._blob(blob):
                yield data
            return
        document = await self._shelf.document(blob)
        if not blob.is_index:
            manifests.append(document)
        for child in document.children:
            if not await self._leave_out(blob, child):
                async for data in self._tree(child, manifests):
                    yield data
        async for data in self._blob(blob):
            yield data

    async def _leave_out(self, parent: Descriptor, child: Descriptor) -> bool:
        if child.is_foreign and self._how.without_foreign:
            return True
        if not parent.is_index:
            return False
        try:
            await self._shelf.info(child.digest)
        except errors.NotFound:
            return True  # a platform that was never pulled
        return False

    async def _blob(self, blob: Descriptor) -> AsyncIterator[bytes]:
        if blob.digest in self._written:
            return
        self._written.add(blob.digest)
        size = (await self._shelf.info(blob.digest)).size
        yield _header(_path(blob.digest), size)
        async for data in self._shelf.chunks(blob.digest):
            yield data
        yield bytes(-size % _BLOCK)


def _tag(name: str) -> str:
    _, colon, tag = name.rpartition(":")
    return tag if colon and "/" not in tag else "latest"


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _entry(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % _BLOCK)


def _header(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o444
    return header.tobuf(tarfile.GNU_FORMAT)
