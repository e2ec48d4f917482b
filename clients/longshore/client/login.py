"""Whether a registry takes somebody's credentials."""

from __future__ import annotations

from longshore.client.registries import Options, translated
from longshore.registry.hosts import hosts_for


async def login(domain: str, registry: Options) -> None:
    """Ask the registry of `domain` (``localhost:5000``, ``docker.io``) for its greeting, as whom `registry` names.

    Raises Unauthenticated when it doesn't know us, Unavailable when nobody answers.
    """
    from longshore.registry.client import Registry
    from longshore.registry.transport import Request

    with translated(f"login to {domain}"):
        async with Registry(registry) as door:
            host = hosts_for(domain, registry.settings)[-1]  # the registry itself, not its mirrors
            async with door.transport.request(host, Request("GET", "/"), (200,)):
                return
