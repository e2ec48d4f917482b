"""Which ports of the host lead into a container: requests, ranges, and the sockets that hold them.

Whoever publishes a port holds a bound socket, so that nobody else gets it and
a conflict is known at once; a userland proxy goes on with this very socket.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from longshore.api import errors
from longshore.dockerd.errors import ServerError
from longshore.dockerd.network.records import Mapping as PortMapping
from longshore.dockerd.records import PortBinding

if TYPE_CHECKING:
    from longshore.dockerd.records import Container

PROTOCOLS: Final = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}
_BACKLOG: Final = 4096
_EPHEMERAL: Final = (49153, 65535)
ANY: Final = {4: "0.0.0.0", 6: "::"}


class Request(NamedTuple):
    """One binding as asked for; 0, 0 is any port of the host; `host_ip` "" is every address of it."""

    protocol: str
    container_port: int
    host_ip: str
    first: int
    last: int


def parse_port(text: str) -> tuple[int, str]:
    """ "80/tcp", "80". InvalidArgument."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise errors.InvalidArgument(f"invalid port specification: {text!r}")
    return _number(number, text), protocol


def _number(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise errors.InvalidArgument(f"invalid port specification: {whole!r}")
    return int(text)


def requests(container: Container) -> list[Request]:
    """What is to be published, in the order of the container's ports; InvalidArgument."""
    bindings = container.host_config.port_bindings or {}
    wanted = {**dict.fromkeys(_exposed(container)), **bindings}
    found: list[Request] = []
    for port, asked in sorted(wanted.items(), key=lambda item: parse_port(item[0])[::-1]):
        number, protocol = parse_port(port)
        for binding in asked or ([PortBinding()] if container.host_config.publish_all_ports else []):
            first, last = _range(binding.host_port)
            if binding.host_ip:
                _check_address(binding.host_ip)
            found.append(Request(protocol, number, binding.host_ip, first, last))
    return found


def _check_address(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        raise errors.InvalidArgument(f"invalid IP address: {text}") from None


def _range(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    first, dash, last = text.partition("-")
    low = _number(first, text)
    high = _number(last, text) if dash else low
    if high < low:
        raise errors.InvalidArgument(f"invalid port range: {text}")
    return low, high


def _exposed(container: Container) -> list[str]:
    return list(container.config.exposed_ports or {})


def described(container: Container, mappings: Sequence[PortMapping]) -> dict[str, list[PortBinding] | None]:
    """NetworkSettings.Ports: what is exposed, and where what is published listens."""
    bindings = container.host_config.port_bindings or {}
    found: dict[str, list[PortBinding] | None] = {}
    for text in (*_exposed(container), *bindings):
        number, protocol = parse_port(text)
        found[f"{number}/{protocol}"] = None
    for each in mappings:
        key = f"{each.container_port}/{each.protocol}"
        here = PortBinding(host_ip=each.host_ip, host_port=str(each.host_port))
        found[key] = [*(found.get(key) or []), here]
    return found


class Bound(NamedTuple):
    mapping: PortMapping
    holder: socket.socket


def ephemeral() -> tuple[int, int]:
    """The range that ports come from which nobody chose."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return _EPHEMERAL


class Ports:
    """The host's ports that containers have. `has_ipv6`: the host listens on IPv6 too."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str, int]] = set()
        self._last = 0

    def bind(self, request: Request, targets: Mapping[int, str], default_ip: str, ipv6: bool) -> list[Bound]:
        """A socket for each address family that can lead to the container (`targets`: its address by version).

        ServerError where the port is somebody else's, or none of the range is free.
        """
        places = list(_places(request.host_ip, targets, default_ip, ipv6))
        reason: ServerError | None = None
        for port in self._candidates(request):
            try:
                return self._bind_all(request, places, port)
            except _Busy as busy:
                reason = reason or busy.error
        raise reason or ServerError("all ports are allocated")

    def _candidates(self, request: Request) -> Iterator[int]:
        if request.first:
            yield from range(request.first, request.last + 1)
            return
        low, high = ephemeral()
        start = self._last + 1 if low <= self._last < high else low
        for port in (*range(start, high + 1), *range(low, start)):
            self._last = port
            yield port

    def _bind_all(self, request: Request, places: Sequence[tuple[str, str]], port: int) -> list[Bound]:
        bound: list[Bound] = []
        try:
            for host_ip, target in places:
                mapping = PortMapping(
                    protocol=request.protocol,
                    host_ip=host_ip,
                    host_port=port,
                    container_ip=target,
                    container_port=request.container_port,
                )
                bound.append(Bound(mapping, self._hold(mapping)))
        except BaseException:
            for each in bound:
                self.release(each.mapping)
                each.holder.close()
            raise
        return bound

    def _hold(self, mapping: PortMapping) -> socket.socket:
        key = _key(mapping)
        where = f"{_bracketed(mapping.host_ip)}:{mapping.host_port}"
        if key in self._taken:
            raise _Busy(ServerError(f"Bind for {where} failed: port is already allocated"))
        try:
            holder = listen(mapping)
        except OSError as error:
            number = error.errno or errno.EIO
            raise _Busy(
                ServerError(
                    f"Error starting userland proxy: listen {mapping.protocol}"
                    f"{ip_address(mapping.host_ip).version} {where}: bind: {os.strerror(number).lower()}"
                )
            ) from None
        self._taken.add(key)
        return holder

    def adopt(self, mapping: PortMapping) -> None:
        """A running container has it."""
        self._taken.add(_key(mapping))

    def release(self, mapping: PortMapping) -> None:
        """Twice is once."""
        self._taken.discard(_key(mapping))


class _Busy(Exception):
    def __init__(self, error: ServerError) -> None:
        super().__init__(error.message)
        self.error = error


def _key(mapping: PortMapping) -> tuple[str, str, int]:
    return mapping.protocol, mapping.host_ip, mapping.host_port


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _places(
    host_ip: str, targets: Mapping[int, str], default_ip: str, ipv6: bool
) -> Iterator[tuple[str, str]]:
    """(address of the host, of the container) pairs. IPv6 leads to the container's IPv4 where it has no other."""
    if host_ip:
        version = ip_address(host_ip).version
        target = targets.get(version) or targets.get(4)
        if target:
            yield host_ip, target
        return
    if 4 in targets:
        yield default_ip, targets[4]
    if ipv6 and default_ip == ANY[4]:
        yield ANY[6], targets.get(6) or targets[4]


def listen(mapping: PortMapping) -> socket.socket:
    """A socket bound to the host's end, listening where the protocol has that. OSError."""
    kind, protocol = PROTOCOLS[mapping.protocol]
    version = ip_address(mapping.host_ip).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    holder = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        if version == 6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((mapping.host_ip, mapping.host_port))
        if kind == socket.SOCK_STREAM:
            holder.listen(_BACKLOG)
    except BaseException:
        holder.close()
        raise
    return holder


def host_has_ipv6() -> bool:
    """Whether IPv6 is on (loopback has an address, too, where only that)."""
    try:
        return bool(Path("/proc/net/if_inet6").read_text())
    except OSError:
        return False
