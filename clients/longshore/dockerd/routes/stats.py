"""/containers/{name}/stats, top, update: what a container uses, does and may use."""

from __future__ import annotations

from contextlib import aclosing

from longshore.dockerd.backend import stats
from longshore.dockerd.backend.top import top
from longshore.dockerd.backend.update import UpdateBody, update
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route


async def usage(engine: Engine, call: Call) -> Answer | None:
    """GET /containers/{name}/stats."""
    live, parts = engine.containers.live(call.path["name"]), engine.containers.parts
    if not call.flag("stream", True):
        compare = not (call.flag("one-shot") and call.version >= (1, 41))
        return Answer(body=await stats.once(parts, live, compare=compare))
    answer = await call.stream()
    async with aclosing(stats.follow(parts, live)) as readings:
        async for reading in readings:
            await answer.line(reading)
    return None


async def processes(engine: Engine, call: Call) -> Answer:
    """GET /containers/{name}/top."""
    live = engine.containers.live(call.path["name"])
    return Answer(body=await top(engine.containers.parts, live, call.query.get("ps_args", "")))


async def limits(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/update."""
    body = await call.json(UpdateBody)
    live = engine.containers.live(call.path["name"])
    return Answer(body={"Warnings": await update(engine.containers.parts, live, body) or None})


ROUTES = (
    Route("GET", "/containers/{name}/stats", usage),
    Route("GET", "/containers/{name}/top", processes),
    Route("POST", "/containers/{name}/update", limits),
)
