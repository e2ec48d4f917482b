"""Which networks nobody needs: those that no container, running or not, names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longshore.api import errors
from longshore.dockerd.backend import times
from longshore.dockerd.network import documents, joining

if TYPE_CHECKING:
    from longshore.dockerd.engine import Engine
    from longshore.dockerd.network.records import NetworkRecord


async def prune(engine: Engine, filters: dict[str, list[str]]) -> list[str] | None:
    """The names of those that were removed; None for none, as the original says it. Raises InvalidArgument."""
    networks = engine.networks
    before = [times.parse(text) for text in filters.get("until", ())]
    named = {
        joining.network_name(term, networks.all())
        for container in engine.containers.all()
        for term in container.networks
    }
    removed = []
    for network in networks.all():
        if network.is_predefined or network.name in named or not _wanted(network.record, filters, before):
            continue
        try:
            await networks.remove(network.id)
        except errors.Error:
            continue  # somebody has joined it, or removed it
        removed.append(network.name)
    if removed:
        engine.events.publish("network", "prune", "", {"reclaimed": "0"})
    return removed or None


def _wanted(record: NetworkRecord, filters: dict[str, list[str]], before: list[int]) -> bool:
    if any(record.created_ns >= time for time in before):
        return False
    if not all(documents.has_label(record, label) for label in filters.get("label", ())):
        return False
    return not any(documents.has_label(record, label) for label in filters.get("label!", ()))
