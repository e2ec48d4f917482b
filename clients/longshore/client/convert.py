"""An image made into another form: layers uncompressed, Docker's media types turned into OCI's.

Blobs are immutable, so this stores new ones beside the old: from the layers up
to the index, each labelled with what it refers to before anything refers to
it. The configuration is kept byte for byte; its DiffIDs are of uncompressed
layers, and so stay true.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from longshore.api.errors import DataLoss, NotFound
from longshore.client import oci
from longshore.client.content import digest_of
from longshore.client.unpack import UNCOMPRESSED_LABEL
from longshore.registry import shapes

if TYPE_CHECKING:
    from longshore.api.types.descriptor_pb2 import Descriptor
    from longshore.client.client import AsyncClient
    from longshore.client.images import Image

# Docker's name of a kind of blob -> OCI's.
OCI_TYPES = {
    oci.DOCKER_INDEX: oci.INDEX,
    oci.DOCKER_MANIFEST: oci.MANIFEST,
    oci.DOCKER_CONFIG: oci.CONFIG,
    oci.DOCKER_LAYER: oci.LAYER,
    f"{oci.DOCKER_LAYER}.gzip": oci.LAYER_GZIP,
    f"{oci.DOCKER_LAYER}.zstd": oci.LAYER_ZSTD,
}

# Compressed layer -> the same uncompressed.
PLAIN_TYPES = {
    oci.LAYER_GZIP: oci.LAYER,
    oci.LAYER_ZSTD: oci.LAYER,
    f"{oci.DOCKER_LAYER}.gzip": oci.DOCKER_LAYER,
    f"{oci.DOCKER_LAYER}.zstd": oci.DOCKER_LAYER,
}


class Form(NamedTuple):
    """What is wanted. `platform` None keeps every platform of an index."""

    uncompress: bool
    oci_types: bool
    platform: oci.Platform | None


async def convert(client: AsyncClient, source: str, target: str, form: Form) -> Image:
    """See `Images.convert`."""
    async with client.leased() as leased:
        image = await leased.images.get(source)
        work = _Conversion(leased, form)
        found = oci.descriptor(await work.document(image.target))
        await leased.images.create(target, found, image.labels, replace=True)
    return await client.images.get(target)


class _Conversion:
    def __init__(self, client: AsyncClient, form: Form) -> None:
        self._client, self._form = client, form
        self._layers: dict[str, dict[str, Any]] = {}  # by the old digest: images share layers

    async def document(self, blob: Descriptor) -> dict[str, Any]:
        """The descriptor, as JSON, of what a manifest or index becomes."""
        data = await self._client.content.read(blob.digest)
        try:
            old = shapes.parse(data)
        except ValueError as error:
            raise DataLoss(f"blob {blob.digest} is no manifest: {error}: data loss") from None
        old.setdefault("mediaType", blob.media_type)
        new = await (self._index(old) if "manifests" in old else self._manifest(old))
        new["mediaType"] = self._type(old["mediaType"])
        if new != json.loads(data):
            data = json.dumps(new, separators=(",", ":")).encode()
        digest = digest_of(data)
        await self._client.content.write(f"convert-{digest}", data, labels=oci.gc_labels(new))
        return {"mediaType": new["mediaType"], "digest": digest, "size": len(data)}

    async def _index(self, old: Mapping[str, Any]) -> dict[str, Any]:
        entries = []
        for entry in oci.manifests(old):
            if self._form.platform and not oci.matches(self._form.platform, entry.get("platform")):
                continue
            entries.append({**entry, **await self.document(oci.descriptor(entry))})
        if not entries:
            raise NotFound(f"manifest for {self._form.platform}: not found")
        return {**old, "manifests": entries}

    async def _manifest(self, old: Mapping[str, Any]) -> dict[str, Any]:
        config = dict(old.get("config") or {})
        config["mediaType"] = self._type(config.get("mediaType") or "")
        layers = [await self._layer(layer) for layer in old.get("layers") or []]
        return {**old, "config": config, "layers": layers}

    async def _layer(self, old: Mapping[str, Any]) -> dict[str, Any]:
        digest, media_type = old.get("digest") or "", old.get("mediaType") or ""
        if digest not in self._layers:
            plain = PLAIN_TYPES.get(media_type) if self._form.uncompress else None
            self._layers[digest] = {**old, **(await self._uncompressed(digest) if plain else {})}
            self._layers[digest]["mediaType"] = self._type(plain or media_type)
        return self._layers[digest]

    def _type(self, media_type: str) -> str:
        return OCI_TYPES.get(media_type, media_type) if self._form.oci_types else media_type

    async def _uncompressed(self, digest: str) -> dict[str, Any]:
        """Store a layer's tar; digest and size of it. Raises DataLoss when the layer is damaged."""
        from longshore.layers.compression import decompressed
        from longshore.layers.errors import InvalidLayer

        with tempfile.TemporaryFile() as packed:
            async for block in self._client.content.chunks(digest):
                packed.write(block)
            packed.seek(0)
            blocks = decompressed(packed.fileno())
            try:
                found = await self._client.content.write(f"convert-uncompress-{digest}", _threaded(blocks))
            except InvalidLayer as error:
                raise DataLoss(f"layer {digest}: {error}: data loss") from None
        await self._client.content.label(found, {UNCOMPRESSED_LABEL: found})
        return {"digest": found, "size": (await self._client.content.info(found)).size}


async def _threaded(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The same, made beside the event loop."""
    while block := await asyncio.to_thread(next, blocks, b""):
        yield block
