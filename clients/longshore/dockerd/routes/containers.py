"""/containers: the verbs of containers, their streams, and what is known of them."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from longshore.api.errors import InvalidArgument, Unimplemented
from longshore.dockerd.backend import attach, detach, frames, listing, prune, times
from longshore.dockerd.backend.live import Live
from longshore.dockerd.engine import Engine, LogEntry
from longshore.dockerd.http import Answer, Call, Hijacked, Route
from longshore.dockerd.images import platforms
from longshore.dockerd.logs.reading import Span
from longshore.dockerd.records import CreateBody


async def list_all(engine: Engine, call: Call) -> Answer:
    """GET /containers/json."""
    limit = call.integer("limit", 0) or 0
    filters = call.filters(listing.FILTERS)
    found = await engine.containers.listing.select(filters, call.flag("all"), limit)
    size = call.flag("size")
    lines = [await engine.containers.listing.line(live, call.version, size) for live in found]
    return Answer(body=lines)


async def create(engine: Engine, call: Call) -> Answer:
    """POST /containers/create."""
    body = await call.json(CreateBody)
    if body == CreateBody():
        raise InvalidArgument("config cannot be empty in order to create a container")
    _check_networks(body, call)
    await platforms.check(engine.images, body.image, platforms.parse(call.query.get("platform", "")))
    made = await engine.containers.create(body, call.query.get("name", ""))
    return Answer(201, {"Id": made.live.id, "Warnings": made.warnings})


_SEVERAL_NETWORKS = (1, 44)
"""Since this version a create may join more than one."""


def _check_networks(body: CreateBody, call: Call) -> None:
    asked = (body.networking_config.endpoints_config if body.networking_config else None) or {}
    if len(asked) > 1 and call.version < _SEVERAL_NETWORKS:
        names = ", ".join(sorted(asked))
        raise InvalidArgument(f"Container cannot be connected to network endpoints: {names}")


async def inspect(engine: Engine, call: Call) -> Answer:
    """GET /containers/{name}/json."""
    document = await engine.containers.inspect(call.path["name"], call.version, call.flag("size"))
    return Answer(body=document)


_EMPTY_BODY = 7  # bytes: {}, null and the like


async def start(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/start. A body, longer than a client's empty one, has once changed the HostConfig."""
    length = call.headers.get("content-length", "")
    if "transfer-encoding" in call.headers or (length.isdigit() and int(length) > _EMPTY_BODY):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    await engine.containers.start(call.path["name"])
    return Answer(204)


def _seconds(call: Call) -> int | None:
    return call.integer("t") if call.query.get("t") else None


def _signal(call: Call) -> str:
    return call.query.get("signal", "")


async def stop(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/stop."""
    await engine.containers.stop(call.path["name"], _seconds(call), _signal(call))
    return Answer(204)


async def restart(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/restart."""
    await engine.containers.restart(call.path["name"], _seconds(call), _signal(call))
    return Answer(204)


async def kill(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/kill."""
    await engine.containers.kill(call.path["name"], _signal(call))
    return Answer(204)


async def pause(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/pause."""
    await engine.containers.pause(call.path["name"])
    return Answer(204)


async def unpause(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/unpause."""
    await engine.containers.unpause(call.path["name"])
    return Answer(204)


async def rename(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/rename."""
    await engine.containers.rename(call.path["name"], call.query.get("name", ""))
    return Answer(204)


async def remove(engine: Engine, call: Call) -> Answer:
    """DELETE /containers/{name}."""
    name = call.path["name"]
    if call.flag("link"):
        await engine.containers.unlink(name)
    else:
        await engine.containers.remove(name, force=call.flag("force"), volumes=call.flag("v"))
    return Answer(204)


async def prune_stopped(engine: Engine, call: Call) -> Answer:
    """POST /containers/prune."""
    return Answer(body=await engine.containers.prune(call.filters(prune.FILTERS)))


async def resize(engine: Engine, call: Call) -> Answer:
    """POST /containers/{name}/resize."""
    height, width = size_of(call)
    await engine.containers.resize(call.path["name"], height, width)
    return Answer(200)


def size_of(call: Call) -> tuple[int, int]:
    """Height and width. Raises InvalidArgument."""
    height, width = call.integer("h"), call.integer("w")
    if height is None or width is None:
        raise InvalidArgument("the query needs h and w")
    for name, value in (("height", height), ("width", width)):
        if not 0 <= value < 1 << 32:
            raise InvalidArgument(f"invalid resize {name} {value}: value out of range")
    return height, width


async def wait(engine: Engine, call: Call) -> Answer | None:
    """POST /containers/{name}/wait: the answer begins at once, so that the client knows that we are waiting."""
    waiting = engine.containers.wait(call.path["name"], call.query.get("condition", ""))
    answer = await call.stream()
    outcome = await waiting
    document: dict[str, object] = {"StatusCode": outcome.exit_code}
    if outcome.error:
        document["Error"] = {"Message": outcome.error}
    elif call.version < (1, 42):
        document["Error"] = None
    await answer.line(document)
    return None


def _wishes(call: Call, live: Live) -> attach.Wishes:
    config = live.record.config
    stream = call.flag("stream")
    return attach.Wishes(
        stdin=stream and call.flag("stdin") and config.open_stdin,
        outputs=frozenset(name for name in ("stdout", "stderr") if call.flag(name)),
        terminal=config.tty,
        framed=not config.tty,
        keys=detach.parse(call.query.get("detachKeys", "")),
        closes_stdin=config.stdin_once and not config.tty,
    )


async def attach_streams(engine: Engine, call: Call) -> None:
    """POST /containers/{name}/attach."""
    live = engine.containers.live(call.path["name"])
    wishes = _wishes(call, live)
    await _attach(engine, call, live, wishes, lambda: call.hijack(_content_type(wishes, call)))


async def attach_websocket(engine: Engine, call: Call) -> None:
    """GET /containers/{name}/attach/ws: both outputs in one stream, without frames."""
    live = engine.containers.live(call.path["name"])
    await _attach(engine, call, live, _wishes(call, live)._replace(framed=False), call.websocket)


def _content_type(wishes: attach.Wishes, call: Call) -> str:
    return frames.content_type(not wishes.framed, call.version)


async def _attach(
    engine: Engine,
    call: Call,
    live: Live,
    wishes: attach.Wishes,
    take: Callable[[], Awaitable[Hijacked]],
) -> None:
    attaching = engine.containers.attaching
    attaching.check(live)
    has_streams = wishes.stdin or wishes.outputs
    reserved = attaching.reserve(live) if call.flag("stream") and has_streams else None
    try:
        connection = await take()
        with contextlib.suppress(ConnectionError):
            if call.flag("logs"):
                await _replay(engine, live, connection, wishes)
            if reserved is not None:
                await attaching.serve(live, connection, reserved, wishes)
    finally:
        if reserved is not None and not reserved.done():
            reserved.cancel()


async def _replay(engine: Engine, live: Live, connection: attach.Connection, wishes: attach.Wishes) -> None:
    framed = frames.framing(not wishes.framed)
    async with contextlib.aclosing(engine.containers.logs(live, Span(None, 0, 0))) as batches:
        async for entries in batches:
            wanted = [entry for entry in entries if entry.stream in wishes.outputs]
            await connection.write(b"".join(framed(entry.stream, entry.line) for entry in wanted))


async def logs(engine: Engine, call: Call) -> None:
    """GET /containers/{name}/logs."""
    outputs = frozenset(name for name in ("stdout", "stderr") if call.flag(name))
    if not outputs:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    live = engine.containers.live(call.path["name"])
    since, until = (times.parse(call.query.get(name, "")) for name in ("since", "until"))
    span = Span(_tail(call.query.get("tail", "")), since, until)
    batches = engine.containers.logs(live, span, follow=call.flag("follow"))
    terminal = live.record.config.tty
    framed = frames.framing(terminal)
    stamped, detailed = call.flag("timestamps"), call.flag("details")
    async with contextlib.aclosing(batches):
        answer = await call.stream(frames.content_type(terminal, call.version))
        async for entries in batches:
            wanted = [entry for entry in entries if entry.stream in outputs]
            if wanted:
                lines = (framed(entry.stream, _line(entry, stamped, detailed)) for entry in wanted)
                await answer.write(b"".join(lines))


def _tail(text: str) -> int | None:
    """None is all; so is everything that is no number."""
    return int(text) if text.isdigit() else None


def _line(entry: LogEntry, stamped: bool, detailed: bool) -> bytes:
    line = entry.line
    if detailed:
        words = ",".join(f"{key}={value}" for key, value in sorted(entry.attributes.items()))
        line = f"{words} ".encode() + line
    if stamped:
        line = f"{times.fixed(entry.time_ns)} ".encode() + line
    return line


async def checkpoints(engine: Engine, call: Call) -> Answer:
    """GET, POST and DELETE of /containers/{name}/checkpoints."""
    raise Unimplemented(
        "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to"
        " enable it."
    )


ROUTES = (
    Route("GET", "/containers/json", list_all),
    Route("POST", "/containers/create", create),
    Route("POST", "/containers/prune", prune_stopped, since=(1, 25)),
    Route("GET", "/containers/{name}/json", inspect),
    Route("GET", "/containers/{name}/logs", logs),
    Route("POST", "/containers/{name}/start", start),
    Route("POST", "/containers/{name}/stop", stop),
    Route("POST", "/containers/{name}/restart", restart),
    Route("POST", "/containers/{name}/kill", kill),
    Route("POST", "/containers/{name}/pause", pause),
    Route("POST", "/containers/{name}/unpause", unpause),
    Route("POST", "/containers/{name}/rename", rename),
    Route("POST", "/containers/{name}/resize", resize),
    Route("POST", "/containers/{name}/wait", wait),
    Route("POST", "/containers/{name}/attach", attach_streams, hijacks=True),
    Route("GET", "/containers/{name}/attach/ws", attach_websocket, hijacks=True),
    Route("GET", "/containers/{name}/checkpoints", checkpoints, since=(1, 25)),
    Route("POST", "/containers/{name}/checkpoints", checkpoints, since=(1, 25)),
    Route("DELETE", "/containers/{name}/checkpoints/{checkpoint}", checkpoints, since=(1, 25)),
    Route("DELETE", "/containers/{name}", remove),
)
