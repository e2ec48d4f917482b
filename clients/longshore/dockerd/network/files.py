"""hosts, hostname and resolv.conf of a container: their texts, and their places.

Files are written in place, never replaced: a container holds them by bind mount.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

HOSTS: Final = "/etc/hosts"
HOSTNAME: Final = "/etc/hostname"
RESOLV_CONF: Final = "/etc/resolv.conf"
NAMES: Final = {HOSTS: "hosts", HOSTNAME: "hostname", RESOLV_CONF: "resolv.conf"}

EMBEDDED: Final = "127.0.0.11"
"""Where a container of a user-defined network finds its DNS server."""
_FALLBACK: Final = ("8.8.8.8", "8.8.4.4")

_STANDARD: Final = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::0", "ip6-localnet"),
    ("ff00::0", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


def hosts(entries: Iterable[tuple[str, str]]) -> str:
    """The standard lines, then (address, names) as they come."""
    return "".join(f"{address}\t{names}\n" for address, names in (*_STANDARD, *entries))


class Resolver(NamedTuple):
    """What a resolv.conf says."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse(text: str) -> Resolver:
    """The last search line counts, as for the resolver itself; comments and the unknown are left out."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return Resolver(tuple(servers), search, tuple(options))


def usable(servers: Sequence[str], ipv6: bool) -> tuple[str, ...]:
    """Those that a container can reach: no loopback, IPv6 only where it has that; else public ones."""
    reachable = tuple(server for server in servers if _is_reachable(server, ipv6))
    return reachable or _FALLBACK


def _is_reachable(server: str, ipv6: bool) -> bool:
    try:
        address = ip_address(server.split("%")[0])
    except ValueError:
        return False
    return not address.is_loopback and (address.version == 4 or ipv6)


def resolv_conf(resolver: Resolver) -> str:
    """The text; a search of "." is none at all."""
    lines = [f"nameserver {server}" for server in resolver.servers]
    if resolver.search and resolver.search != (".",):
        lines.insert(0, f"search {' '.join(resolver.search)}")
    if resolver.options:
        lines.append(f"options {' '.join(resolver.options)}")
    return "".join(line + "\n" for line in lines)


def host_resolver(path: str = "/etc/resolv.conf") -> Resolver:
    """The host's; behind systemd-resolved the servers that it asks itself."""
    found = _read(path)
    if found.servers == ("127.0.0.53",):
        behind = _read("/run/systemd/resolve/resolv.conf")
        return behind if behind.servers else found
    return found


def _read(path: str) -> Resolver:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse(file.read(1 << 16))
    except OSError:
        return Resolver()


def edit(path: str, add: Iterable[tuple[str, str]] = (), remove: Iterable[tuple[str, str]] = ()) -> None:
    """Lines of a hosts file, (address, names) each; what else the container wrote there stays."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read(1 << 20).splitlines(keepends=True)
    gone = {f"{address}\t{names}\n" for address, names in remove}
    new = [f"{address}\t{names}\n" for address, names in add]
    write(path, "".join([*(line for line in lines if line not in gone), *new]))


def write(path: str, text: str) -> None:
    """In place, and readable for every user of the container."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        data = text.encode(errors="surrogateescape")
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
