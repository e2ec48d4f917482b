"""GET /images/get: images as one tar that is a docker archive and an OCI layout in one.

Sizes are known beforehand, so the tar is written as it is sent: nothing is
kept in files, and of layers never more than a block in memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from longshore.api.errors import DataLoss, NotFound
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import AsyncClient, oci
from longshore.client.archive import LAYOUT
from longshore.dockerd.images import names
from longshore.dockerd.images.catalogue import Entry, Facts
from longshore.dockerd.images.names import Reference

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images

_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK)


class Chosen(NamedTuple):
    """An image and the tags that go with it."""

    facts: Facts
    tags: list[Reference]


async def choose(images: Images, asked: Sequence[str]) -> list[Chosen]:
    """An ID takes no tag along, a repository all its tags. Raises NotFound."""
    found: dict[str, Chosen] = {}
    for text in asked:
        for entry, tags in await _meant(images, text):
            chosen = found.setdefault(entry.id, Chosen(entry.facts, []))
            chosen.tags.extend(tag for tag in tags if tag not in chosen.tags)
    return list(found.values())


async def _meant(images: Images, text: str) -> list[tuple[Entry, list[Reference]]]:
    by_id = names.is_id(text)
    wanted = None if by_id else names.parse(text)
    if wanted is not None and not names.has_tag(text):
        of_it = [
            (entry, tags)
            for entry in (await images.catalogue.entries()).values()
            if (tags := [tag for tag in entry.tags if tag.repository == wanted.repository])
        ]
        if of_it:
            return of_it
    try:
        entry = await images.find(text)
    except NotFound:
        raise NotFound(f"No such image: {text}") from None
    return [(entry, [tag for tag in entry.tags if tag == wanted])]


async def save(images: Images, chosen: Sequence[Chosen]) -> AsyncIterator[bytes]:
    """The bytes of the archive."""
    async with _held(images, chosen) as client:
        written: set[str] = set()
        for image in chosen:
            for blob in (image.facts.config_blob, *image.facts.layers, image.facts.manifest):
                if blob.digest in written:
                    continue
                written.add(blob.digest)
                async for block in _blob(client, blob, image.facts.created_ns // 10**9):
                    yield block
        for name, document in _explained(chosen).items():
            data = msgspec.json.encode(document)
            yield _header(name, len(data)) + data + _padding(len(data))
        yield _END
    for image in chosen:
        images.publish("save", image.facts.id, image.facts, image.facts.id)


@asynccontextmanager
async def _held(images: Images, chosen: Sequence[Chosen]) -> AsyncIterator[AsyncClient]:
    """Nothing of these images is collected meanwhile, whoever removes them."""
    async with images.client.leased() as client:
        for image in chosen:
            await client.leases.add_resource(client.connection.lease, "content", image.facts.manifest.digest)
        yield client


async def _blob(client: AsyncClient, blob: Descriptor, modified: int) -> AsyncIterator[bytes]:
    size = (await client.content.info(blob.digest)).size
    yield _header(_path(blob.digest), size, modified)
    sent = 0
    async for block in client.content.chunks(blob.digest):
        sent += len(block)
        yield block
    if sent != size:
        raise DataLoss(f"blob {blob.digest} has {sent} bytes, not {size}: data loss")
    yield _padding(size)


def _explained(chosen: Sequence[Chosen]) -> dict[str, Any]:
    """The documents of both formats, by file name."""
    entries: list[dict[str, Any]] = []
    docker: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for facts, tags in chosen:
        plain = {
            "mediaType": facts.manifest.media_type,
            "digest": facts.manifest.digest,
            "size": facts.manifest.size,
        }
        for tag in tags:
            annotations = {oci.NAME_ANNOTATION: str(tag), oci.REF_ANNOTATION: tag.tag}
            entries.append({**plain, "annotations": annotations})
            top = facts.layers[-1].digest if facts.layers else facts.id
            repositories.setdefault(names.familiar_name(tag), {})[tag.tag] = top.partition(":")[2]
        if not tags:
            entries.append(plain)
        docker.append(
            {
                "Config": _path(facts.config_blob.digest),
                "RepoTags": [names.familiar(tag) for tag in tags] or None,
                "Layers": [_path(layer.digest) for layer in facts.layers],
            }
        )
    return {
        "index.json": {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries},
        "manifest.json": docker,
        "oci-layout": LAYOUT,
        **({"repositories": repositories} if repositories else {}),
    }


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _header(name: str, size: int, modified: int = 0) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, modified, 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
