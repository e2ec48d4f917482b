"""The doors of BuildKit: shut, with a word about the other way to build."""

from __future__ import annotations

from longshore.api import errors
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route


async def unsupported(engine: Engine, call: Call) -> Answer:
    raise errors.Unimplemented(
        "this daemon has no BuildKit: set DOCKER_BUILDKIT=0 to build with its classic builder"
    )


ROUTES = (
    Route("POST", "/session", unsupported),
    Route("POST", "/grpc", unsupported),
)
