"""Swarms: this daemon is never part of one, and says so in the words that clients know."""

from __future__ import annotations

from longshore.api import errors
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Answer, Call, Route

_NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node'
    " to swarm and try again."
)


async def not_a_manager(engine: Engine, call: Call) -> Answer:
    raise errors.Unavailable(_NO_MANAGER)


async def not_a_member(engine: Engine, call: Call) -> Answer:
    raise errors.Unavailable("This node is not part of a swarm")


async def unsupported(engine: Engine, call: Call) -> Answer:
    raise errors.Unimplemented("this daemon does not run swarms")


_NOUNS = ("services", "nodes", "secrets", "configs")

ROUTES = (
    Route("POST", "/swarm/init", unsupported),
    Route("POST", "/swarm/join", unsupported),
    Route("POST", "/swarm/leave", not_a_member),
    Route("POST", "/swarm/unlock", not_a_manager),
    Route("GET", "/swarm", not_a_manager),
    Route("GET", "/swarm/unlockkey", not_a_manager),
    Route("POST", "/swarm/update", not_a_manager),
    Route("GET", "/tasks", not_a_manager),
    Route("GET", "/tasks/{id}", not_a_manager),
    Route("GET", "/tasks/{id}/logs", not_a_manager),
    Route("GET", "/services/{id}/logs", not_a_manager),
    *(Route("GET", f"/{noun}", not_a_manager) for noun in _NOUNS),
    *(Route("GET", f"/{noun}/{{id}}", not_a_manager) for noun in _NOUNS),
    *(Route("DELETE", f"/{noun}/{{id}}", not_a_manager) for noun in _NOUNS),
    *(Route("POST", f"/{noun}/create", not_a_manager) for noun in _NOUNS if noun != "nodes"),
    *(Route("POST", f"/{noun}/{{id}}/update", not_a_manager) for noun in _NOUNS),
)
