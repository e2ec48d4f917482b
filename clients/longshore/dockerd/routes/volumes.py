"""/volumes: make, list, inspect, remove, prune."""

from __future__ import annotations

from longshore.api import errors
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route
from longshore.dockerd.volumes import filters
from longshore.dockerd.volumes.documents import CreateBody

# Since then a prune takes the anonymous ones only.
_ANONYMOUS_ONLY = (1, 42)


async def listing(engine: Engine, call: Call) -> Answer:
    """GET /volumes."""
    volumes = engine.volumes.listing(call.filters(filters.LIST))
    return Answer(body={"Volumes": [engine.volumes.show(volume) for volume in volumes], "Warnings": None})


async def create(engine: Engine, call: Call) -> Answer:
    """POST /volumes/create; 201 too for one that was there."""
    body = await call.json(CreateBody)
    if body.cluster_volume_spec is not None and call.version >= _ANONYMOUS_ONLY:
        raise errors.Unavailable(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect'
            " this node to swarm and try again."
        )
    volume = await engine.volumes.create(body.name, body.driver, body.driver_opts, body.labels)
    return Answer(201, engine.volumes.show(volume))


async def inspect(engine: Engine, call: Call) -> Answer:
    """GET /volumes/{name}."""
    return Answer(body=engine.volumes.show(engine.volumes.get(call.path["name"])))


async def update(engine: Engine, call: Call) -> Answer:
    """PUT /volumes/{name}: for the volumes of a swarm."""
    raise errors.Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def remove(engine: Engine, call: Call) -> Answer:
    """DELETE /volumes/{name}."""
    await engine.volumes.remove(call.path["name"], force=call.flag("force"))
    return Answer(204)


async def prune(engine: Engine, call: Call) -> Answer:
    """POST /volumes/prune."""
    wanted = call.filters(filters.PRUNE)
    if call.version < _ANONYMOUS_ONLY:
        wanted = {**wanted, "all": ["true"]}
    removed, reclaimed = await engine.volumes.prune(wanted)
    return Answer(body={"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})


ROUTES = (
    Route("GET", "/volumes", listing),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune, since=(1, 25)),
    Route("GET", "/volumes/{name}", inspect),
    Route("PUT", "/volumes/{name}", update, since=(1, 42)),
    Route("DELETE", "/volumes/{name}", remove),
)
