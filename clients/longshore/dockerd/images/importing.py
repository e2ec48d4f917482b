"""POST /images/create?fromSrc=: a tar of a root file system becomes an image of one layer."""

from __future__ import annotations

import asyncio
import bz2
import lzma
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from longshore.api.errors import AlreadyExists, Error, InvalidArgument, NotFound
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import AsyncClient, oci
from longshore.client.snapshots import Snapshots
from longshore.client.unpack import UNCOMPRESSED_LABEL
from longshore.dockerd.backend.commit import change, plain
from longshore.dockerd.images import names
from longshore.dockerd.images.catalogue import SNAPSHOTTER
from longshore.dockerd.images.making import Layer, assemble
from longshore.dockerd.images.names import Reference
from longshore.dockerd.records import ContainerConfig
from longshore.dockerd.version import DOCKER

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images

_LONGEST_MAGIC: Final = 6


class Wish(NamedTuple):
    """What else a client says of an import."""

    name: Reference | None = None
    message: str = ""
    changes: Sequence[str] = ()
    platform: oci.Platform | None = None


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


class _Packing(NamedTuple):
    """How to recognise a compression, and who undoes it: the store reads plain tars, gzip and zstd itself."""

    magic: bytes
    media_type: str
    decompressor: Callable[[], _Decompressor] | None = None


_PLAIN: Final = _Packing(b"", oci.DOCKER_LAYER)
_PACKINGS: Final = (
    _Packing(b"\x1f\x8b", f"{oci.DOCKER_LAYER}.gzip"),
    _Packing(b"\x28\xb5\x2f\xfd", oci.LAYER_ZSTD),
    _Packing(b"BZh", oci.DOCKER_LAYER, bz2.BZ2Decompressor),
    _Packing(b"\xfd7zXZ\x00", oci.DOCKER_LAYER, lzma.LZMADecompressor),
    _PLAIN,
)


async def import_tar(
    images: Images, archive: AsyncIterator[bytes], wish: Wish
) -> AsyncIterator[dict[str, Any]]:
    """Store and unpack it; one line with its ID. Raises InvalidArgument for what is no tar."""
    config = _config(wish)
    async with images.client.leased() as client:
        layer = await _layer(client, archive)
        facts = await assemble(images, client, None, layer, config)
        references = [wish.name] if wish.name else []
        await images.name(facts, references, client=client)
    for reference in references:
        images.publish("tag", facts.id, facts, names.familiar(reference))
    images.publish("import", facts.id, facts, facts.id)
    yield {"status": facts.id}


def _config(wish: Wish) -> dict[str, Any]:
    host = wish.platform or oci.host_platform()
    whole = plain(change(ContainerConfig(), wish.changes))
    return {
        "architecture": host.architecture,
        "os": host.os,
        **({"variant": host.variant} if host.variant else {}),
        "config": whole,
        "container_config": {},
        "docker_version": DOCKER,
        "comment": wish.message,
        "history": [{"comment": wish.message}],
    }


async def _layer(client: AsyncClient, archive: AsyncIterator[bytes]) -> Layer:
    """The archive as a blob, and its snapshot, whose making tells the DiffID."""
    first, rest = await _beginning(archive)
    packing = next(packing for packing in _PACKINGS if first.startswith(packing.magic))
    blocks = _unpacked(rest, packing.decompressor()) if packing.decompressor else rest
    ref = f"import-{secrets.token_hex(8)}"
    digest = await client.content.write(ref, blocks)
    size = (await client.content.info(digest)).size
    blob = Descriptor(media_type=packing.media_type, digest=digest, size=size)
    diff_id = await _applied(client, blob)
    await client.content.label(digest, {UNCOMPRESSED_LABEL: diff_id})
    return Layer(blob, diff_id)


async def _beginning(archive: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    first = b""
    async for block in archive:
        first += block
        if len(first) >= _LONGEST_MAGIC:
            break

    async def whole() -> AsyncIterator[bytes]:
        if first:
            yield first
        async for block in archive:
            yield block

    return first, whole()


async def _unpacked(blocks: AsyncIterator[bytes], decompressor: _Decompressor) -> AsyncIterator[bytes]:
    try:
        async for block in blocks:
            if data := await asyncio.to_thread(decompressor.decompress, block):
                yield data
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InvalidArgument(f"damaged archive: {error}") from None


async def _applied(client: AsyncClient, blob: Descriptor) -> str:
    snapshots = client.snapshots(SNAPSHOTTER)
    key = f"import-{secrets.token_hex(8)}"
    mounts = await snapshots.prepare(key)
    try:
        try:
            applied = await client.diffs.apply(blob, mounts)
        except Error as error:
            raise InvalidArgument(f"Error processing tar file: {error.message}") from None
        with suppress(AlreadyExists):
            await snapshots.commit(applied.digest, key)
        return applied.digest
    finally:
        await _remove(snapshots, key)


async def _remove(snapshots: Snapshots, key: str) -> None:
    """It is there still when the commit wasn't reached, or when the layer was here before."""
    with suppress(NotFound):
        await snapshots.remove(key)
