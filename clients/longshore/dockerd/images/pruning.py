"""POST /images/prune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longshore.api.errors import Error
from longshore.client.pull import forget_interrupted
from longshore.dockerd.images import listing, names
from longshore.dockerd.images.catalogue import Entry
from longshore.dockerd.records import Container

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images


async def prune(
    images: Images, filters: Mapping[str, Sequence[str]], containers: Sequence[Container]
) -> dict[str, Any]:
    """Delete images without a tag, with ``dangling=false`` all that no container uses; and what pulls left over."""
    everything = listing.boolean(filters, "dangling") is False
    selection = listing.Selection(
        labels=tuple(filters.get("label") or ()),
        no_labels=tuple(filters.get("label!") or ()),
        before_ns=listing.until(filters),
    )
    entries = await images.catalogue.entries()
    sizes = {
        chain_id: await images.catalogue.layer_size_or_0(chain_id)
        for entry in entries.values()
        for chain_id in entry.facts.chain
    }
    done: list[dict[str, str]] = []
    for entry in entries.values():
        intermediate = not entry.references and images.children(entry.id)
        if not intermediate and selection.takes(entry) and (everything or not entry.tags):
            done += await _removed(images, entry, containers)
    await forget_interrupted(images.client)
    reclaimed = sum(sizes.get(step.get("Deleted", ""), 0) for step in done)
    images.events.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
    return {"ImagesDeleted": done or None, "SpaceReclaimed": reclaimed}


async def _removed(images: Images, entry: Entry, containers: Sequence[Container]) -> list[dict[str, str]]:
    """What the original does: name after name, and what fails is left alone."""
    done: list[dict[str, str]] = []
    for asked in [names.familiar(reference) for reference in entry.references] or [entry.id]:
        try:
            done += await images.remove(asked, containers)
        except Error:
            continue
    return done
