"""What is remembered of networks (durable, in `State`) and of joined containers (as long as the host runs).

A network's record is the user's configuration. A sandbox is what `join` made
for one container; it is written to a file before anything is made, so that a
dockerd that was killed in between finds everything again and undoes it.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import Final

import msgspec
from msgspec import field

KIND: Final = "networks"
"""Of the records in `State`."""


DRAFT: Final = ".new"
"""How the name of a file ends that is being written."""


class PoolRecord(msgspec.Struct, kw_only=True):
    """One subnet. `gateway` is an address without prefix; `configured`: the user chose the subnet."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = field(default_factory=dict)
    configured: bool = False


class NetworkRecord(msgspec.Struct, kw_only=True):
    id: str
    name: str
    driver: str
    created_ns: int
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    pools: list[PoolRecord] = field(default_factory=list)
    config_only: bool = False
    config_from: str = ""
    link: str = ""
    """The bridge, or the parent that was made for a macvlan."""
    link_is_ours: bool = True


class Mapping(msgspec.Struct, kw_only=True, frozen=True):
    """A published port: `host_ip` "" never (0.0.0.0 or :: say any)."""

    protocol: str
    host_ip: str
    host_port: int
    container_ip: str
    container_port: int


class Proxy(msgspec.Struct, kw_only=True):
    """A docker-proxy that runs for one mapping."""

    mapping: Mapping
    pid: int
    start_time: int
    """In clock ticks since boot, as the kernel tells it: a later process of the same pid isn't it."""


class Endpoint(msgspec.Struct, kw_only=True):
    """One network of a running container. Addresses are "a.b.c.d/n" or ""."""

    id: str
    network: str
    link: str = ""
    """The host's end; "" where there is none (macvlan)."""
    interface: str = ""
    """The container's end: "eth0"."""
    mac: str = ""
    ipv4: str = ""
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    priority: int = 0
    names: list[str] = field(default_factory=list)
    """What other containers of the network call it."""
    links: dict[str, str] = field(default_factory=dict)
    """What the container alone calls others: alias -> name."""
    mac_asked: bool = False
    offers: list[str] = field(default_factory=list)
    """The ports that the container has something behind: "80/tcp"."""
    allowed: list[tuple[str, str, str, int]] = field(default_factory=list)
    """Links on a bridge that forbids all other talk: (the other's address, its own, protocol, port)."""
    mappings: list[Mapping] = field(default_factory=list)
    proxies: list[Proxy] = field(default_factory=list)

    def address(self, version: int) -> IPv4Interface | IPv6Interface | None:
        text = self.ipv4 if version == 4 else self.ipv6
        return ip_interface(text) if text else None


class Sandbox(msgspec.Struct, kw_only=True):
    """What one container has. `path` of the namespace is "" with host networking or another's namespace."""

    container: str
    name: str
    mode: str
    path: str = ""
    endpoints: list[Endpoint] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    dns_ports: tuple[int, int] = (0, 0)
    """UDP and TCP, of the embedded DNS server; 0, 0 without one."""
    dns_asked: list[str] = field(default_factory=list)
    """Servers outside that the user named."""

    def endpoint(self, network: str) -> Endpoint | None:
        """Of a network's ID."""
        return next((each for each in self.endpoints if each.network == network), None)


class SandboxFiles:
    """One file for each sandbox; lost with the host's memory, as what it describes is."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def _path(self, container: str) -> Path:
        return self._folder / f"{container}.json"

    def write(self, sandbox: Sandbox) -> None:
        """Whole or not at all, for a reader after a crash of ours (not of the host)."""
        path = self._path(sandbox.container)
        draft = path.with_suffix(DRAFT)
        try:
            draft.write_bytes(msgspec.json.encode(sandbox))
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def remove(self, container: str) -> None:
        self._path(container).unlink(missing_ok=True)

    def load(self) -> list[Sandbox]:
        """Every one. A broken file and a half-written one name nothing that can be undone, and are removed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for draft in self._folder.glob(f"*{DRAFT}"):
            draft.unlink()
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Sandbox))
            except msgspec.DecodeError:
                path.unlink()
        return found
