"""/exec: processes beside a container's own."""

from __future__ import annotations

import contextlib

from longshore.api.errors import InvalidArgument
from longshore.dockerd.backend import detach, execs, frames
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route
from longshore.dockerd.records import Document
from longshore.dockerd.routes.containers import size_of


class StartBody(Document):
    """POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


_CONSOLE_SIZE = (1, 42)
"""Since this version a start may name the terminal's size."""


async def create(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/exec."""
    body = await call.json(execs.ExecBody)
    if not body.cmd:
        raise InvalidArgument("No exec command specified")
    detach.parse(body.detach_keys)
    name = call.path["name"]
    made = engine.containers.execs.create(engine.containers.live(name), body, name)
    return Answer(201, {"Id": made.id})


async def start(engine: Engine, call: Call) -> Answer | None:
    """POST /exec/{id}/start."""
    body = await call.json(StartBody)
    found = engine.containers.execs.find(call.path["id"])
    size = body.console_size if call.version >= _CONSOLE_SIZE else None
    wish = execs.Wish(body.tty, body.detach, size)
    engine.containers.execs.check(found)
    if body.detach:
        await engine.containers.execs.start(found, wish)
        return Answer(200)
    connection = await call.hijack(frames.content_type(body.tty, call.version))
    with contextlib.suppress(ConnectionError):
        await engine.containers.execs.serve(found, connection, wish)
    return None


async def inspect(engine: Engine, call: Call) -> Answer:
    """GET /exec/{id}/json."""
    return Answer(body=execs.describe(engine.containers.execs.find(call.path["id"])))


async def resize(engine: Engine, call: Call) -> Answer:
    """POST /exec/{id}/resize."""
    height, width = size_of(call)
    await engine.containers.execs.resize(engine.containers.execs.find(call.path["id"]), height, width)
    return Answer(200)


ROUTES = (
    Route("POST", "/containers/{name}/exec", create),
    Route("POST", "/exec/{id}/start", start, hijacks=True),
    Route("POST", "/exec/{id}/resize", resize),
    Route("GET", "/exec/{id}/json", inspect),
)
