"""The doors of BuildKit: shut, with a word about the other way to build.

The docker CLI shows nothing of an error at these doors. So who asks for HTTP/2
is let in, and told there: at /grpc by every call that it makes, and at
/session, where we would be the one who calls, by the build that goes with it.
"""

from __future__ import annotations

from typing import Final

from longshore.api import errors
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Call, Route
from longshore.dockerd.refusal import Refusal

MESSAGE: Final = "this daemon has no BuildKit: set DOCKER_BUILDKIT=0 to build with its classic builder"


async def session(engine: Engine, call: Call) -> None:
    _wants_http2(call)
    connection = await call.hijack("")
    while await connection.read():
        pass


async def grpc(engine: Engine, call: Call) -> None:
    _wants_http2(call)
    connection = await call.hijack("")
    refusal = Refusal(MESSAGE)
    try:
        while data := await connection.read():
            await connection.write(refusal.feed(data))
    except (ConnectionError, ValueError):
        pass


def _wants_http2(call: Call) -> None:
    if call.headers.get("upgrade", "").lower() != "h2c":
        raise errors.Unimplemented(MESSAGE)


ROUTES = (
    Route("POST", "/session", session, hijacks=True),
    Route("POST", "/grpc", grpc, hijacks=True),
)
