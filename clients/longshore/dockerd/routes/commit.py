"""/commit: an image from a container."""

from __future__ import annotations

from typing import Final

import msgspec

from longshore.api.errors import InvalidArgument
from longshore.dockerd.backend.commit import commit
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route, short_body
from longshore.dockerd.records import ContainerConfig

_LIMIT: Final = 1 << 20


async def _body(call: Call) -> ContainerConfig | None:
    """The CLI sends "null", others nothing."""
    data = await short_body(call, _LIMIT)
    try:
        return msgspec.json.decode(data, type=ContainerConfig | None) if data.strip() else None
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error


async def make(engine: Engine, call: Call) -> Answer:
    """POST /commit. The body is a config, whose members win over the container's; it may be absent."""
    name = call.query.get("container", "")
    config = await _body(call)
    live = engine.containers.live(name)
    repository, tag = call.query.get("repo", ""), call.query.get("tag", "")
    info = await commit(
        engine.containers.parts,
        live,
        name=f"{repository}:{tag}" if repository and tag else repository,
        config=config,
        changes=call.values("changes"),
        author=call.query.get("author", ""),
        comment=call.query.get("comment", ""),
        pause=call.flag("pause", True),
    )
    return Answer(201, {"Id": info.id})


ROUTES = (Route("POST", "/commit", make),)
