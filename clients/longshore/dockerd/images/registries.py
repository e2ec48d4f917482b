"""How dockerd reaches registries: daemon.json's mirrors and insecure registries, and whom a request speaks for."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from longshore.api import errors
from longshore.client.registries import Access, Options, access, cause, reason
from longshore.dockerd.errors import ServerError
from longshore.dockerd.images import names
from longshore.dockerd.images.names import Reference

if TYPE_CHECKING:
    from longshore.dockerd.config import Config

CERTIFICATES: Final = "/etc/docker/certs.d"
_LOCAL: Final = ("127.0.0.0/8", "::1/128")  # Docker checks no certificate here


class Auth(msgspec.Struct, rename="lower", kw_only=True):
    """The header X-Registry-Auth."""

    username: str = ""
    password: str = ""
    auth: str = ""
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")
    server_address: str = msgspec.field(default="", name="serveraddress")

    @property
    def pair(self) -> tuple[str, str]:
        """User and password; ("", "") without."""
        if self.username or not self.auth:
            return self.username, self.password
        try:
            user, _, password = base64.b64decode(self.auth).decode().partition(":")
        except (binascii.Error, ValueError):
            return "", ""
        return user, password.rstrip("\0")


def decode(header: str) -> Auth:
    """The header, base64 of JSON; what can't be read is nobody, as the original has it."""
    if not header:
        return Auth()
    try:
        data = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        return msgspec.json.decode(data, type=Auth)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return Auth()


def options(config: Config, reference: Reference, auth: Auth, *, pull: bool) -> Options:
    """For one repository. Raises InvalidArgument for a mirror that is no address."""
    user, secret = auth.pair
    hub = reference.domain == names.DOCKER_HUB
    return access(
        Access(
            domain=reference.domain,
            user=user,
            secret=secret,
            identity_token=auth.identity_token,
            registry_token=auth.registry_token,
            certificates=CERTIFICATES,
            mirrors=tuple(config.registry_mirrors) if hub and pull else (),
            insecure=is_insecure(reference.domain, config.insecure_registries),
            attempts=config.max_download_attempts,
        )
    )


def is_insecure(domain: str, listed: Sequence[str]) -> bool:
    """Whether daemon.json, or being this machine, excuses it from having a certificate. Names aren't looked up."""
    if domain in listed:
        return True
    host = urlsplit(f"//{domain}").hostname or domain
    if host == "localhost" or host in listed:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for entry in (*_LOCAL, *listed) if (network := _network(entry)))


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def pull_error(error: errors.Error, reference: Reference) -> errors.Error:
    """What the original says when a pull fails; clients grep these words."""
    said = reason(error)
    if isinstance(error, errors.NotFound):
        said = said or "manifest unknown: manifest unknown"
        if said.startswith("name unknown"):
            return errors.NotFound(f"repository {names.familiar_name(reference)} not found: {said}")
        return errors.NotFound(f"manifest for {names.familiar(reference)} not found: {said}")
    if isinstance(error, errors.PermissionDenied) or said.startswith("denied"):
        return errors.NotFound(
            f"pull access denied for {names.familiar_name(reference)}, repository does not exist or may"
            f" require 'docker login': {said or 'denied: requested access to the resource is denied'}"
        )
    return server_error(error, reference)


def server_error(error: errors.Error, reference: Reference) -> errors.Error:
    """Everything else is status 500 there, with the registry's own words as far as there are any."""
    said = reason(error)
    root = f"https://{reference.domain}/v2/"
    if said == "no basic auth credentials":
        said = f'Head "{root}{reference.path}/manifests/{reference.object}": {said}'
    if not said and isinstance(error, errors.Unavailable):
        what = cause(error).replace(": connection refused", ": connect: connection refused")
        said = f'Get "{root}": dial tcp {what}'
    return ServerError(said or cause(error))
