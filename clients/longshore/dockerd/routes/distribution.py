"""/distribution: what a registry has under a name, without pulling it."""

from __future__ import annotations

from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route
from longshore.dockerd.images import distribution, names, registries


async def inspect(engine: Engine, call: Call) -> Answer:
    """GET /distribution/{name}/json."""
    auth = registries.decode(call.headers.get("x-registry-auth", ""))
    return Answer(body=await distribution.inspect(engine.images, names.parse(call.path["name"]), auth))


ROUTES = (Route("GET", "/distribution/{name}/json", inspect, since=(1, 30)),)
