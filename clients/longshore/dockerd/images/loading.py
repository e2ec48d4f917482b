"""POST /images/load: docker archives and OCI archives, from a stream that is read once.

Nothing of an archive becomes a file: its members go into the content store as
blobs under a lease, checked against the digest that somebody promised, and the
few documents that explain them are kept in memory, up to a bound.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import IO, TYPE_CHECKING, Any

from longshore.api.errors import InvalidArgument
from longshore.client import AsyncClient, oci
from longshore.client.archive import ArchiveSource
from longshore.client.images import Record, store_tree
from longshore.client.sources import Named
from longshore.dockerd.images import names, platforms
from longshore.dockerd.images.catalogue import Facts
from longshore.dockerd.images.names import Reference

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images


async def load(
    images: Images, archive: IO[bytes], *, quiet: bool, platform: oci.Platform | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Store, unpack and record what an archive has; lines of progress. InvalidArgument for what is no archive,
    NotFound where an image in it is for another platform than the one that is asked for.
    """
    async with images.client.leased() as client:
        source = ArchiveSource(client, archive)
        for facts, target, tags in _by_image(
            [await _stored(images, client, source, n, platform) for n in await source.resolve()]
        ):
            await images.unpack(facts, client)
            for diff_id in () if quiet else facts.diff_ids:
                yield {"status": "Loading layer", "progressDetail": {}, "id": names.short(diff_id)}
            async for line in _recorded(images, client, facts, target, tags):
                yield line


_Found = tuple[Facts, Named]


async def _stored(
    images: Images, client: AsyncClient, source: ArchiveSource, named: Named, wanted: oci.Platform | None
) -> _Found:
    await store_tree(client, source, named.target)
    facts = await images.catalogue.look(Record(name="", target=named.target))
    if facts is None:
        raise InvalidArgument(f"{named.name or named.target.digest} is no image for this platform")
    if wanted is not None:
        platforms.compare(named.name or named.target.digest, wanted, facts.platform)
    return facts, named


def _by_image(found: list[_Found]) -> list[tuple[Facts, Named, list[Reference]]]:
    """An archive lists an image once for each of its tags."""
    grouped: dict[str, tuple[Facts, Named, list[Reference]]] = {}
    for facts, named in found:
        _, _, tags = grouped.setdefault(facts.id, (facts, named, []))
        if named.name:
            tags.append(names.new_tag(named.name, ""))
    return list(grouped.values())


async def _recorded(
    images: Images, client: AsyncClient, facts: Facts, named: Named, tags: list[Reference]
) -> AsyncIterator[dict[str, Any]]:
    losers = await images.name(facts, tags, target=named.target, client=client, tagged=False)
    images.publish("load", facts.id, facts, facts.id)
    for loser in losers:
        for lost in loser.repo_tags:
            yield {
                "stream": f"The image {lost} already exists, renaming the old one with ID {loser.id}"
                " to empty string\n"
            }
    for tag in tags:
        yield {"stream": f"Loaded image: {names.familiar(tag)}\n"}
    if not tags:
        yield {"stream": f"Loaded image ID: {facts.id}\n"}
