"""POST /auth: whether a registry takes these credentials. Nothing is kept: clients store them."""

from __future__ import annotations

from urllib.parse import urlsplit

from longshore.api import errors
from longshore.client.login import login
from longshore.client.registries import Access, access, reason
from longshore.dockerd.engine import Engine
from longshore.dockerd.errors import ServerError
from longshore.dockerd.http import Answer, Call, Route
from longshore.dockerd.images import registries

_HUB = frozenset(("", "docker.io", "index.docker.io", "registry-1.docker.io"))


async def authenticate(engine: Engine, call: Call) -> Answer:
    auth = await call.json(registries.Auth)
    domain = registry_of(auth.server_address)
    user, password = auth.pair
    wanted = Access(
        domain=domain,
        user=user,
        secret=password,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
        certificates=registries.CERTIFICATES,
        insecure=registries.is_insecure(domain, engine.config.insecure_registries),
        attempts=1,
    )
    try:
        await login(domain, access(wanted))
    except (errors.Unauthenticated, errors.PermissionDenied) as error:
        raise errors.Unauthenticated(_refused(domain, error)) from None
    except errors.Error as error:
        raise ServerError(f'Get "https://{domain}/v2/": {reason(error) or error.message}') from None
    return Answer(200, {"Status": "Login Succeeded", "IdentityToken": ""})


def _refused(domain: str, error: errors.Error) -> str:
    said = reason(error) or "unauthorized: incorrect username or password"
    if said == "unauthorized: authentication required":  # of the registry itself, not of a token server
        return f"login attempt to https://{domain}/v2/ failed with status: 401 Unauthorized"
    return f'Get "https://{domain}/v2/": {said}'


def registry_of(address: str) -> str:
    """The registry that a server address means: "https://index.docker.io/v1/" is Docker Hub's."""
    host = urlsplit(address if "://" in address else f"//{address}").netloc
    return "docker.io" if host in _HUB else host


ROUTES = (Route("POST", "/auth", authenticate),)
