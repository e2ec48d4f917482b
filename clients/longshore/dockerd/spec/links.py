"""The environment that a legacy link (`--link` on the default bridge) brings: addresses, ports, variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from longshore.api.errors import InvalidArgument, NotFound
from longshore.dockerd.errors import Conflict
from longshore.dockerd.records import Container, HostConfig
from longshore.dockerd.spec.settings import Peer

_DEFAULT = ("", "default", "bridge")


class Port(NamedTuple):
    number: int
    protocol: str


def environment(container: Container, peer: Peer) -> list[str]:
    """Raises NotFound (no such container), Conflict (it isn't running: it has no address)."""
    if container.host_config.network_mode not in _DEFAULT:
        return []
    found: list[str] = []
    for text in container.host_config.links or ():
        target, _, alias = text.removeprefix("/").partition(":")
        child = peer(target)
        name = f"/{container.name}/{alias.rpartition('/')[2] or target}"
        if child.state.status not in ("running", "paused"):
            raise Conflict(f"Cannot link to a non running container: /{child.name} AS {name}")
        found += _of(child, name)
    return found


def check(host: HostConfig, peer: Peer) -> None:
    """At create: whether the containers that are linked to are there. Raises InvalidArgument: of a create NotFound
    would mean the image."""
    if host.network_mode not in _DEFAULT:
        return
    for text in host.links or ():
        if not text:
            raise InvalidArgument("empty string specified for links")
        target = text.removeprefix("/").partition(":")[0]
        try:
            peer(target)
        except (InvalidArgument, NotFound) as error:
            raise InvalidArgument(f"could not get container for {target}: {error.message}") from error


def _of(child: Container, name: str) -> Iterator[str]:
    prefix = name.rpartition("/")[2].upper().replace("-", "_")
    bridge = child.networks.get("bridge")
    address = bridge.ip_address if bridge else ""
    ports = sorted((_port(text) for text in child.config.exposed_ports or ()), key=_order)
    if ports:
        yield f"{prefix}_PORT={ports[0].protocol}://{address}:{ports[0].number}"
    for port in ports:
        start = f"{prefix}_PORT_{port.number}_{port.protocol.upper()}"
        yield f"{start}={port.protocol}://{address}:{port.number}"
        yield f"{start}_ADDR={address}"
        yield f"{start}_PORT={port.number}"
        yield f"{start}_PROTO={port.protocol}"
    yield f"{prefix}_NAME={name}"
    for entry in child.config.env or ():
        variable, equals, value = entry.partition("=")
        if equals and variable not in ("HOME", "PATH"):
            yield f"{prefix}_ENV_{variable}={value}"


def _port(text: str) -> Port:
    number, _, protocol = text.partition("/")
    return Port(int(number.partition("-")[0] or 0), protocol or "tcp")


def _order(port: Port) -> tuple[int, bool]:
    """By number; of two with one number TCP is first."""
    return port.number, port.protocol != "tcp"
