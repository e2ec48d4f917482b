"""/build: build an image, prune the cache, cancel a build."""

from __future__ import annotations

from longshore.api import errors
from longshore.dockerd.backend import times
from longshore.dockerd.build import options
from longshore.dockerd.build.output import Output
from longshore.dockerd.build.running import CommandFailed
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route

_PRUNE_FILTERS = frozenset(
    ("until", "id", "parent", "type", "description", "inuse", "shared", "private", "unused-for")
)


async def build(engine: Engine, call: Call) -> None:
    """POST /build: lines of JSON, the last of which tells of a failure."""
    wanted = options.of(call)
    output = Output(call, wanted.quiet)
    try:
        image = await engine.builder.build(wanted, call.body(), output)
    except errors.Error as error:
        if not (output.begun or output.kept):
            raise
        await output.failed(error.message, error.status if isinstance(error, CommandFailed) else 0)
        return
    await output.done(image)


async def prune(engine: Engine, call: Call) -> Answer:
    """POST /build/prune: the cache is images, which `docker image prune` removes; here is nothing to free."""
    filters = call.filters(_PRUNE_FILTERS)
    for text in filters.get("until", ()):
        if times.duration(text) is None:
            raise errors.InvalidArgument(f'"until" filter expects a duration (e.g., \'24h\'): "{text}"')
    call.integer("keep-storage")
    engine.builder.pruned()
    return Answer(body={"CachesDeleted": None, "SpaceReclaimed": 0})


async def cancel(engine: Engine, call: Call) -> Answer:
    """POST /build/cancel."""
    id = call.query.get("id", "")
    if not id:
        raise errors.InvalidArgument("build ID not provided")
    engine.builder.cancel(id)
    return Answer()


ROUTES = (
    Route("POST", "/build", build),
    Route("POST", "/build/prune", prune, since=(1, 31)),
    Route("POST", "/build/cancel", cancel, since=(1, 31)),
)
