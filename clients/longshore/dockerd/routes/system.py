"""What the daemon is, how it goes, and what has happened: _ping, version, info, events, system/df."""

from __future__ import annotations

from longshore.api import errors
from longshore.dockerd import about, usage
from longshore.dockerd.backend.times import parse
from longshore.dockerd.engine import Engine
from longshore.dockerd.events import FILTERS
from longshore.dockerd.http import Answer, Call, Route

_PING = {
    "Builder-Version": "1",  # the classic builder: clients must not try BuildKit
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
}


async def ping(engine: Engine, call: Call) -> Answer:
    kind = "text/plain; charset=utf-8"
    if call.method == "HEAD":
        return Answer(200, None, {**_PING, "Content-Type": kind})
    return Answer(200, b"OK", _PING, kind)


async def options(engine: Engine, call: Call) -> Answer:
    """OPTIONS of anything: what browsers ask first."""
    return Answer()


async def version(engine: Engine, call: Call) -> Answer:
    return Answer(200, await about.version(engine))


async def info(engine: Engine, call: Call) -> Answer:
    return Answer(200, await about.info(engine))


async def events(engine: Engine, call: Call) -> None:
    filters = call.filters(FILTERS, ignore_others=True)
    since, until = _time(call, "since"), _time(call, "until")
    if since and until and since > until:
        raise errors.InvalidArgument(
            f"`since` time ({call.query['since']}) cannot be after `until` time ({call.query['until']})"
        )
    async with engine.events.subscribe(since, until, filters) as happening:
        answer = await call.stream()
        async for event in happening:
            await answer.line(event)


async def df(engine: Engine, call: Call) -> Answer:
    """Of what kinds is told by `type`, all without it."""
    asked = call.values("type") if call.version >= (1, 42) else []
    if unknown := sorted(set(asked) - set(usage.KINDS)):
        raise errors.InvalidArgument(f"unknown object type: {unknown[0]}")
    return Answer(200, await usage.of(engine, asked or usage.KINDS, call.version))


def _time(call: Call, name: str) -> int | None:
    text = call.query.get(name, "")
    return parse(text) if text else None


ROUTES = (
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("OPTIONS", "/{any}", options),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/events", events),
    Route("GET", "/system/df", df),
)
