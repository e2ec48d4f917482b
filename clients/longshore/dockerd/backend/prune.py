"""`docker container prune`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from longshore.api.errors import Error, InvalidArgument
from longshore.dockerd.backend import times
from longshore.dockerd.backend.live import Live

if TYPE_CHECKING:
    from longshore.dockerd.backend.containers import Containers

FILTERS: Final = frozenset(("until", "label", "label!"))


def labelled(labels: Mapping[str, str], wanted: str) -> bool:
    key, found, value = wanted.partition("=")
    return key in labels and (not found or labels[key] == value)


def wanted(live: Live, filters: Mapping[str, Sequence[str]], until_ns: int) -> bool:
    labels = live.record.config.labels or {}
    return (
        not live.alive
        and (until_ns == 0 or live.record.created_ns < until_ns)
        and all(labelled(labels, value) for value in filters.get("label", ()))
        and not any(labelled(labels, value) for value in filters.get("label!", ()))
    )


async def prune(containers: Containers, filters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What was removed, and the bytes that it had written."""
    until = filters.get("until", ())
    if len(until) > 1:
        raise InvalidArgument("more than one until filter specified")
    until_ns = times.parse(until[0], time.time_ns()) if until else 0
    removed: list[str] = []
    reclaimed = 0
    for live in containers.registry:
        if not wanted(live, filters, until_ns):
            continue
        try:
            size = (await containers.listing.sizes(live))["SizeRw"]
            await containers.remove(live.id)
        except Error:
            continue  # somebody else removes it, or starts it
        removed.append(live.id)
        reclaimed += size
    containers.parts.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
    return {"ContainersDeleted": removed or None, "SpaceReclaimed": reclaimed}
