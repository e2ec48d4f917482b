"""/containers/{name}/archive, export, changes: a container's files."""

from __future__ import annotations

from longshore.api.errors import InvalidArgument
from longshore.dockerd.backend.archive import Archives
from longshore.dockerd.backend.live import Live
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route

HEADER = "X-Docker-Container-Path-Stat"
_TAR = "application/x-tar"


def _asked(engine: Engine, call: Call) -> tuple[Archives, Live, str]:
    path = call.query.get("path", "")
    if not path:
        raise InvalidArgument("bad parameter: 'path' cannot be empty")
    return Archives(engine.containers.parts), engine.containers.live(call.path["name"]), path


async def describe(engine: Engine, call: Call) -> Answer:
    """HEAD /containers/{name}/archive."""
    archives, live, path = _asked(engine, call)
    return Answer(headers={HEADER: await archives.describe(live, call.path["name"], path)})


async def get(engine: Engine, call: Call) -> None:
    """GET /containers/{name}/archive."""
    archives, live, path = _asked(engine, call)
    async with archives.packed(live, call.path["name"], path) as packed:
        answer = await call.stream(_TAR, headers={HEADER: packed.statistics})
        async for block in packed.blocks:
            await answer.write(block)


async def put(engine: Engine, call: Call) -> Answer:
    """PUT /containers/{name}/archive."""
    archives, live, path = _asked(engine, call)
    strict, owned = call.flag("noOverwriteDirNonDir"), call.flag("copyUIDGID")
    await archives.unpack(live, call.path["name"], path, call.body(), strict=strict, owned=owned)
    return Answer()


async def export(engine: Engine, call: Call) -> None:
    """GET /containers/{name}/export."""
    live = engine.containers.live(call.path["name"])
    async with Archives(engine.containers.parts).exported(live) as blocks:
        first = await anext(blocks)  # an error that comes at once is a plain answer
        answer = await call.stream("application/octet-stream")
        await answer.write(first)
        async for block in blocks:
            await answer.write(block)


async def changes(engine: Engine, call: Call) -> Answer:
    """GET /containers/{name}/changes."""
    live = engine.containers.live(call.path["name"])
    found = await Archives(engine.containers.parts).changes(live)
    return Answer(body=b"null\n" if found is None else found)


ROUTES = (
    Route("HEAD", "/containers/{name}/archive", describe),
    Route("GET", "/containers/{name}/archive", get),
    Route("PUT", "/containers/{name}/archive", put),
    Route("GET", "/containers/{name}/export", export),
    Route("GET", "/containers/{name}/changes", changes),
)
