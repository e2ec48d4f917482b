"""/images: list, inspect, history, tag, remove, load."""

from __future__ import annotations

import io
from typing import IO, cast

from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route
from longshore.dockerd.images import listing, names
from longshore.dockerd.images.bodies import BodyFile

_BUFFER = 1 << 20  # bytes read at once of an archive


async def list_images(engine: Engine, call: Call) -> Answer:
    """GET /images/json."""
    filters = call.filters(listing.LIST_FILTERS)
    if "filter" in call.query:  # what `docker images NAME` sent before filters knew references
        filters.setdefault("reference", []).append(call.query["filter"])
    return Answer(body=await engine.images.summaries(filters, call.version, every=call.flag("all")))


async def inspect(engine: Engine, call: Call) -> Answer:
    """GET /images/{name}/json."""
    return Answer(body=await engine.images.inspect(call.path["name"], call.version))


async def history(engine: Engine, call: Call) -> Answer:
    """GET /images/{name}/history."""
    return Answer(body=await engine.images.history(call.path["name"]))


async def tag(engine: Engine, call: Call) -> Answer:
    """POST /images/{name}/tag."""
    target = names.with_tag(call.query.get("repo", ""), call.query.get("tag", ""))
    await engine.images.tag(call.path["name"], target)
    return Answer(201)


async def remove(engine: Engine, call: Call) -> Answer:
    """DELETE /images/{name}."""
    done = await engine.images.remove(
        call.path["name"],
        engine.containers.records(),
        force=call.flag("force"),
        prune=not call.flag("noprune"),
    )
    return Answer(body=done)


async def load(engine: Engine, call: Call) -> None:
    """POST /images/load."""
    quiet = call.flag("quiet", True)
    archive = cast(IO[bytes], io.BufferedReader(BodyFile(call.body()), _BUFFER))
    stream = None
    async for line in engine.images.load(archive):
        stream = stream or await call.stream()
        if not quiet or "status" not in line:
            await stream.line(line)
    if stream is None:
        await call.stream()


ROUTES = (
    Route("GET", "/images/json", list_images),
    Route("POST", "/images/load", load),
    Route("GET", "/images/{name}/json", inspect),
    Route("GET", "/images/{name}/history", history),
    Route("POST", "/images/{name}/tag", tag),
    Route("DELETE", "/images/{name}", remove),
)
