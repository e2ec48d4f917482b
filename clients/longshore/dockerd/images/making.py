"""New images: a parent's layers, one more that a snapshot holds, and a configuration."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from longshore.api.errors import AlreadyExists, NotFound
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.mount_pb2 import Mount
from longshore.client import AsyncClient, oci
from longshore.client.content import digest_of
from longshore.client.snapshots import Snapshots
from longshore.client.unpack import UNCOMPRESSED_LABEL
from longshore.dockerd.backend import times
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.images import names as naming
from longshore.dockerd.images.catalogue import SNAPSHOTTER, Facts, moment

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images

EMPTY_LAYER: Final = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The DiffID of a layer without any entry: 1,024 bytes of zeros."""


class Layer(NamedTuple):
    blob: Descriptor
    diff_id: str


async def make(
    images: Images,
    parent: ImageInfo | None,
    snapshot: str,
    config: Mapping[str, Any],
    names: Sequence[str] = (),
    *,
    consume: bool = False,
) -> ImageInfo:
    """See `engine.ImageSource.make`.

    `config` is the whole image configuration. What it lacks of "created",
    "architecture" and "os" is filled in, and so are "rootfs" and "history". In
    "history" it may bring the entries of this step (made of `created_by` and
    `comment`); by default there is one, from its "container_config" or
    "author" and "comment". With `consume` the snapshot itself becomes the new
    layer's: nobody may need it, or have it mounted, any more.
    """
    references = [naming.new_tag(name, "") for name in names]
    async with images.client.leased() as client:
        below = await _facts(images, parent)
        layer = await _difference(client, below, snapshot) if snapshot else None
        if consume and layer is not None:
            await _consume(client, below, layer, snapshot)
        facts = await assemble(images, client, below, layer, config)
        await images.name(facts, references, client=client)
        if below is not None:
            await images.adopt(facts.id, below.id)
    for reference in references:
        images.publish("tag", facts.id, facts, naming.familiar(reference))
    return images.info(await images.find(facts.id))


async def _consume(client: AsyncClient, below: Facts | None, layer: Layer, snapshot: str) -> None:
    """The layer needn't be unpacked: what it would be unpacked to is there."""
    if layer.diff_id == EMPTY_LAYER:
        return
    chain = oci.chain_ids([*(below.diff_ids if below else ()), layer.diff_id])
    with suppress(AlreadyExists):
        await client.snapshots(SNAPSHOTTER).commit(chain[-1], snapshot)


async def _facts(images: Images, parent: ImageInfo | None) -> Facts | None:
    return None if parent is None else (await images.find(parent.id)).facts


async def assemble(
    images: Images, client: AsyncClient, below: Facts | None, layer: Layer | None, config: Mapping[str, Any]
) -> Facts:
    """Write configuration and manifest, and unpack: an image, still without a record."""
    if layer is not None and layer.diff_id == EMPTY_LAYER:
        layer = None
    layers = [*(below.layers if below else ()), *([layer.blob] if layer else [])]
    diff_ids = [*(below.diff_ids if below else ()), *([layer.diff_id] if layer else [])]
    whole = _complete(below, config, diff_ids, empty=layer is None)
    data = msgspec.json.encode(whole)
    config_blob = Descriptor(media_type=oci.DOCKER_CONFIG, digest=digest_of(data), size=len(data))
    document = manifest_of(config_blob, layers)
    packed = msgspec.json.encode(document)
    manifest = Descriptor(media_type=oci.DOCKER_MANIFEST, digest=digest_of(packed), size=len(packed))
    await client.content.write(f"config-{config_blob.digest}", data)
    await client.content.write(f"manifest-{manifest.digest}", packed, labels=oci.gc_labels(document))
    chain = tuple(oci.chain_ids(diff_ids))
    facts = Facts(
        config_blob.digest,
        manifest,
        config_blob,
        whole,
        tuple(layers),
        tuple(diff_ids),
        chain,
        moment(whole["created"]),
    )
    await images.unpack(facts, client)
    return facts


def manifest_of(config: Descriptor, layers: Sequence[Descriptor]) -> dict[str, Any]:
    """A Docker manifest, schema 2."""

    def plain(blob: Descriptor) -> dict[str, Any]:
        return {"mediaType": blob.media_type, "size": blob.size, "digest": blob.digest}

    return {
        "schemaVersion": 2,
        "mediaType": oci.DOCKER_MANIFEST,
        "config": plain(config),
        "layers": [plain(layer) for layer in layers],
    }


def _complete(
    below: Facts | None, config: Mapping[str, Any], diff_ids: Sequence[str], *, empty: bool
) -> dict[str, Any]:
    created = config.get("created") or times.rfc3339(time.time_ns())
    host = below.platform if below else oci.host_platform()
    past = (below.config.get("history") or []) if below else []
    steps = config.get("history") or [_step(config)]
    now = [_dated(step, created, empty or place < len(steps) - 1) for place, step in enumerate(steps)]
    platform = {"architecture": host.architecture, "os": host.os}
    if host.variant:
        platform["variant"] = host.variant
    return {
        **platform,
        **config,
        "created": created,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [*past, *now],
    }


def _step(config: Mapping[str, Any]) -> dict[str, Any]:
    """What was done, as the container tells that did it."""
    command = (config.get("container_config") or {}).get("Cmd") or []
    found = {
        "created_by": command if isinstance(command, str) else " ".join(command),
        "author": config.get("author"),
        "comment": config.get("comment"),
    }
    return {name: value for name, value in found.items() if value}


def _dated(step: Mapping[str, Any], created: str, empty: bool) -> dict[str, Any]:
    """Only the last of several steps has the layer."""
    return {"created": created, **step, **({"empty_layer": True} if empty else {})}


async def _difference(client: AsyncClient, below: Facts | None, snapshot: str) -> Layer:
    snapshots = client.snapshots(SNAPSHOTTER)
    async with _view(snapshots, below.chain_id if below else "") as lower:
        upper = await snapshots.mounts(snapshot)
        blob = await client.diffs.compare(
            lower, upper, media_type=oci.LAYER_GZIP, ref=f"diff-{secrets.token_hex(8)}"
        )
    return await packed_layer(client, blob)


async def packed_layer(client: AsyncClient, blob: Descriptor) -> Layer:
    """A layer of the store with its DiffID, which whoever compressed it has written on it."""
    diff_id = (await client.content.info(blob.digest)).labels.get(UNCOMPRESSED_LABEL, "")
    if not diff_id:
        raise NotFound(f"DiffID of layer {blob.digest}: not found")
    kept = Descriptor(media_type=f"{oci.DOCKER_LAYER}.gzip", digest=blob.digest, size=blob.size)
    return Layer(kept, diff_id)


@asynccontextmanager
async def _view(snapshots: Snapshots, parent: str) -> AsyncIterator[list[Mount]]:
    key = f"view-{secrets.token_hex(8)}"
    try:
        yield await snapshots.view(key, parent)
    finally:
        try:
            await snapshots.remove(key)
        except NotFound:
            pass
