"""Plugins: there are none, and none can be installed."""

from __future__ import annotations

from longshore.api import errors
from longshore.dockerd import decoding
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route


async def none(engine: Engine, call: Call) -> Answer:
    filters = call.filters(frozenset(("capability", "enabled")))
    enabled = filters.get("enabled", [])
    if any(value not in decoding.BOOLEANS for value in enabled):
        raise errors.InvalidArgument(f"invalid filter 'enabled=[{' '.join(enabled)}]'")
    return Answer(200, [])


async def not_found(engine: Engine, call: Call) -> Answer:
    raise errors.NotFound(f'plugin "{call.path["name"]}" not found')


async def unsupported(engine: Engine, call: Call) -> Answer:
    raise errors.Unimplemented("this daemon does not run plugins")


ROUTES = (
    Route("GET", "/plugins", none),
    Route("GET", "/plugins/privileges", unsupported),
    Route("POST", "/plugins/pull", unsupported),
    Route("POST", "/plugins/create", unsupported),
    Route("GET", "/plugins/{name}/json", not_found),
    Route("DELETE", "/plugins/{name}", not_found),
    *(
        Route("POST", f"/plugins/{{name}}/{verb}", not_found)
        for verb in ("enable", "disable", "push", "upgrade", "set")
    ),
)
