"""/networks: list, make, inspect, connect, disconnect, remove, prune."""

from __future__ import annotations

from typing import Final

from longshore.api import errors
from longshore.dockerd import decoding
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route
from longshore.dockerd.network import documents, pruning
from longshore.dockerd.network.documents import ConnectBody, CreateBody, DisconnectBody
from longshore.dockerd.network.registry import Network

_LIST: Final = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
_PRUNE: Final = frozenset(("label", "label!", "until"))


async def listing(engine: Engine, call: Call) -> Answer:
    """GET /networks."""
    filters = call.filters(_LIST)
    for kind in filters.get("type", ()):
        if kind not in ("builtin", "custom"):
            raise errors.InvalidArgument(f"invalid filter: 'type'='{kind}'")
    dangling = filters.get("dangling", ())
    if dangling and (len(dangling) > 1 or dangling[0] not in decoding.BOOLEANS):
        raise errors.InvalidArgument(
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
        )
    found = [each for each in engine.networks.all() if _shown(each, filters)]
    return Answer(body=[documents.summary(each, call.version) for each in found])


def _shown(network: Network, filters: dict[str, list[str]]) -> bool:
    return documents.matches(network.record, filters, bool(network.endpoints))


async def inspect(engine: Engine, call: Call) -> Answer:
    """GET /networks/{id}."""
    call.boolean("verbose")
    scope = call.query.get("scope", "")
    network = engine.networks.find(call.path["id"])
    if scope not in ("", "local"):
        raise errors.NotFound(f"network {call.path['id']} not found")
    return Answer(body=documents.summary(network, call.version, containers=True))


async def create(engine: Engine, call: Call) -> Answer:
    """POST /networks/create."""
    network = await engine.networks.create(await call.json(CreateBody))
    return Answer(201, {"Id": network.id, "Warning": ""})


async def remove(engine: Engine, call: Call) -> Answer:
    """DELETE /networks/{id}."""
    await engine.networks.remove(call.path["id"])
    return Answer(204)


async def connect(engine: Engine, call: Call) -> Answer:
    """POST /networks/{id}/connect."""
    body = await call.json(ConnectBody)
    live = engine.containers.live(body.container)
    engine.networks.find(call.path["id"])
    async with live.lock:
        draft = live.draft()
        await engine.networks.connect(draft, call.path["id"], body.endpoint_config)
        await engine.containers.registry.save(live, draft)
    return Answer(200)


async def disconnect(engine: Engine, call: Call) -> Answer:
    """POST /networks/{id}/disconnect."""
    body = await call.json(DisconnectBody)
    live = engine.containers.live(body.container)
    engine.networks.find(call.path["id"])
    async with live.lock:
        draft = live.draft()
        await engine.networks.disconnect(draft, call.path["id"])
        await engine.containers.registry.save(live, draft)
    return Answer(200)


async def prune(engine: Engine, call: Call) -> Answer:
    """POST /networks/prune."""
    filters = call.filters(_PRUNE)
    return Answer(body={"NetworksDeleted": await pruning.prune(engine, filters)})


ROUTES = (
    Route("GET", "/networks", listing),
    Route("GET", "/networks/", listing),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune, since=(1, 25)),
    Route("GET", "/networks/{id}", inspect),
    Route("DELETE", "/networks/{id}", remove),
    Route("POST", "/networks/{id}/connect", connect),
    Route("POST", "/networks/{id}/disconnect", disconnect),
)
