"""rtnetlink, as much of it as bridges, veths, addresses and routes need.

One datagram carries a whole batch and the kernel answers each message of it:
a container's link, address and route are one system call. pyroute2 would do
too, but costs 160 ms to import and about a millisecond for each message, and
starting a container waits for this.

A socket belongs to the network namespace of the thread that made it, wherever
that thread goes later.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from types import TracebackType
from typing import Final, NamedTuple, Self

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWNEIGH: Final = 28

IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40

IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_MASTER: Final = 10
IFLA_LINKINFO: Final = 18
IFLA_NET_NS_FD: Final = 28
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_INFO_SLAVE_KIND: Final = 4
IFLA_INFO_SLAVE_DATA: Final = 5
IFLA_BRPORT_MODE: Final = 4
VETH_INFO_PEER: Final = 1
IFLA_MACVLAN_MODE: Final = 1
IFLA_VLAN_ID: Final = 1
MACVLAN_MODES: Final = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_BROADCAST: Final = 4
IFA_F_NODAD: Final = 0x02

RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RT_TABLE_MAIN: Final = 254
RTPROT_BOOT: Final = 3
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPE_NOWHERE: Final = 255
RTN_UNICAST: Final = 1

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_STATUS = struct.Struct("=i")

Interface = IPv4Interface | IPv6Interface


class Message(NamedTuple):
    """One request; `what` names it in an error."""

    kind: int
    flags: int
    body: bytes
    what: str = ""


class Link(NamedTuple):
    number: int
    name: str
    flags: int
    mac: str
    master: int
    kind: str
    mtu: int
    parent: int


def attribute(kind: int, value: bytes) -> bytes:
    """A netlink attribute, padded."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, _NUMBER.pack(value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def mac_bytes(mac: str) -> bytes:
    """ValueError for what isn't six hex pairs."""
    parts = mac.replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(part) == 2 for part in parts):
        raise ValueError(f"invalid MAC address: {mac}")
    return bytes(int(part, 16) for part in parts)


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _info(kind: str, data: bytes = b"") -> bytes:
    nested = text(IFLA_INFO_KIND, kind)
    if data:
        nested += attribute(IFLA_INFO_DATA, data)
    return attribute(IFLA_LINKINFO, nested)


_NEW = NLM_F_CREATE | NLM_F_EXCL


def new_bridge(name: str, mtu: int = 0, mac: str = "") -> Message:
    body = _link() + text(IFLA_IFNAME, name) + _info("bridge")
    if mtu:
        body += number(IFLA_MTU, mtu)
    if mac:
        body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    return Message(RTM_NEWLINK, _NEW, body, f"adding bridge {name}")


class Peer(NamedTuple):
    """The container's end of a veth, made where it belongs: it is never seen on the host."""

    name: str
    namespace: int
    mac: str = ""


def new_veth(name: str, peer: Peer, master: int = 0, mtu: int = 0) -> Message:
    """Ours up and in the bridge `master` (an index); the peer can't be up before there are both."""
    size = number(IFLA_MTU, mtu) if mtu else b""
    other = _link() + text(IFLA_IFNAME, peer.name) + size
    other += number(IFLA_NET_NS_FD, peer.namespace)
    if peer.mac:
        other += attribute(IFLA_ADDRESS, mac_bytes(peer.mac))
    body = _link(flags=IFF_UP, change=IFF_UP) + text(IFLA_IFNAME, name) + size
    if master:
        body += number(IFLA_MASTER, master)
    body += _info("veth", attribute(VETH_INFO_PEER, other))
    return Message(RTM_NEWLINK, _NEW, body, f"adding interface {name}")


def new_dummy(name: str) -> Message:
    return Message(
        RTM_NEWLINK, _NEW, _link(flags=IFF_UP, change=IFF_UP) + text(IFLA_IFNAME, name) + _info("dummy"), name
    )


def new_vlan(name: str, parent: int, tag: int) -> Message:
    """`parent`.`tag`, up."""
    body = _link(flags=IFF_UP, change=IFF_UP) + text(IFLA_IFNAME, name) + number(IFLA_LINK, parent)
    body += _info("vlan", attribute(IFLA_VLAN_ID, struct.pack("=H", tag)))
    return Message(RTM_NEWLINK, _NEW, body, f"adding VLAN {name}")


def new_macvlan(peer: Peer, parent: int, mode: str, mtu: int = 0) -> Message:
    """In the peer's namespace from the start. `mode` is a key of MACVLAN_MODES."""
    body = _link() + text(IFLA_IFNAME, peer.name)
    body += number(IFLA_LINK, parent) + number(IFLA_NET_NS_FD, peer.namespace)
    if peer.mac:
        body += attribute(IFLA_ADDRESS, mac_bytes(peer.mac))
    if mtu:
        body += number(IFLA_MTU, mtu)
    body += _info("macvlan", number(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]))
    return Message(RTM_NEWLINK, _NEW, body, f"adding macvlan {peer.name}")


def delete_link(index: int = 0, name: str = "") -> Message:
    """By index, or by name with index 0."""
    body = _link(index) + (text(IFLA_IFNAME, name) if name else b"")
    return Message(RTM_DELLINK, 0, body, f"deleting interface {name or index}")


def set_up(index: int) -> Message:
    return Message(RTM_NEWLINK, 0, _link(index, IFF_UP, IFF_UP), f"setting interface {index} up")


def set_mtu(index: int, mtu: int) -> Message:
    return Message(RTM_NEWLINK, 0, _link(index) + number(IFLA_MTU, mtu), f"setting MTU of interface {index}")


def set_mac(index: int, mac: str) -> Message:
    return Message(
        RTM_NEWLINK,
        0,
        _link(index) + attribute(IFLA_ADDRESS, mac_bytes(mac)),
        f"setting address of interface {index}",
    )


def set_hairpin(index: int, on: bool) -> Message:
    """A bridge port that may send a frame back where it came from: for NAT to itself without a proxy."""
    port = attribute(IFLA_BRPORT_MODE, bytes([on]))
    nested = text(IFLA_INFO_SLAVE_KIND, "bridge") + attribute(IFLA_INFO_SLAVE_DATA, port)
    return Message(
        RTM_NEWLINK, 0, _link(index) + attribute(IFLA_LINKINFO, nested), f"setting hairpin of {index}"
    )


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def add_address(index: int, interface: Interface, kind: int = RTM_NEWADDR) -> Message:
    """`interface` is address and prefix; IPv6 without waiting for duplicate detection."""
    packed = interface.ip.packed
    flags = IFA_F_NODAD if interface.version == 6 else 0
    body = _ADDRESS.pack(_family(interface.version), interface.network.prefixlen, flags, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if interface.version == 4 and interface.network.prefixlen < 31:
        body += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    return Message(kind, _NEW if kind == RTM_NEWADDR else 0, body, f"address {interface}")


def delete_address(index: int, interface: Interface) -> Message:
    return add_address(index, interface, RTM_DELADDR)


def _route_message(kind: int, gateway: str, index: int, version: int) -> Message:
    family = _family(version)
    scope = RT_SCOPE_UNIVERSE if gateway else RT_SCOPE_LINK
    if kind == RTM_DELROUTE:
        scope = RT_SCOPE_NOWHERE  # any
    body = _ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    if gateway:
        body += attribute(RTA_GATEWAY, socket.inet_pton(family, gateway))
    body += number(RTA_OIF, index)
    flags = NLM_F_CREATE | NLM_F_EXCL if kind == RTM_NEWROUTE else 0
    return Message(kind, flags, body, f"default route via {gateway or index}")


def add_default(gateway: str, index: int, version: int = 4) -> Message:
    """The default route; without a gateway straight onto the link."""
    return _route_message(RTM_NEWROUTE, gateway, index, version)


def delete_default(gateway: str, index: int, version: int = 4) -> Message:
    return _route_message(RTM_DELROUTE, gateway, index, version)


class Netlink:
    """A blocking netlink socket, rtnetlink's unless `protocol` says otherwise; not for two threads at once."""

    def __init__(self, protocol: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def do(self, *messages: Message, ignore: Sequence[int] = ()) -> None:
        """All of them in order; the first error, if it isn't among the errnos to `ignore`, as OSError.

        Later ones are tried even after an error: the caller undoes the whole.
        """
        for message, code in zip(messages, self.attempt(*messages), strict=True):
            if code and code not in ignore:
                raise OSError(code, f"{message.what}: {os.strerror(code)}")

    def attempt(self, *messages: Message) -> list[int]:
        """One errno for each message, 0 where it went well."""
        if not messages:
            return []
        first = self._sequence + 1
        packed = b"".join(self._pack(message) for message in messages)
        self._socket.send(packed)
        codes: dict[int, int] = {}
        while len(codes) < len(messages):
            for kind, sequence, body in self._receive():
                if kind == NLMSG_ERROR and sequence >= first:
                    codes[sequence - first] = -_STATUS.unpack_from(body)[0]
        return [codes[index] for index in range(len(messages))]

    def _pack(self, message: Message, more: int = NLM_F_ACK) -> bytes:
        self._sequence += 1
        size = _HEADER.size + len(message.body)
        head = _HEADER.pack(size, message.kind, NLM_F_REQUEST | more | message.flags, self._sequence, 0)
        return head + message.body + bytes(-size % 4)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        data = self._socket.recv(1 << 18)
        offset = 0
        while offset + _HEADER.size <= len(data):
            size, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, sequence, data[offset + _HEADER.size : offset + size]
            offset += size + (-size % 4)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Everything of a kind: the bodies of the answers. OSError."""
        self._socket.send(self._pack(Message(kind, NLM_F_DUMP, body), 0))
        found: list[bytes] = []
        while True:
            for answer, sequence, data in self._receive():
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_DONE:
                    return found
                if answer == NLMSG_ERROR:
                    code = -_STATUS.unpack_from(data)[0]
                    raise OSError(code, os.strerror(code))
                found.append(data)

    def links(self) -> list[Link]:
        return [_parse_link(data) for data in self.dump(RTM_GETLINK, _link())]

    def link(self, name: str) -> Link | None:
        """By name; None if there is none."""
        self._socket.send(self._pack(Message(RTM_GETLINK, 0, _link() + text(IFLA_IFNAME, name)), 0))
        while True:
            for kind, sequence, data in self._receive():
                if sequence != self._sequence:
                    continue
                return None if kind == NLMSG_ERROR else _parse_link(data)

    def index(self, name: str) -> int:
        """FileNotFoundError if there is no such link."""
        found = self.link(name)
        if found is None:
            raise FileNotFoundError(19, f"no such interface: {name}")
        return found.number

    def addresses(self) -> list[tuple[int, str, int]]:
        """(link index, address, prefix length) of all."""
        found = []
        for data in self.dump(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, prefix, _, _, index = _ADDRESS.unpack_from(data)
            own = dict(attributes(data[_ADDRESS.size :]))
            packed = own.get(IFA_LOCAL) or own.get(IFA_ADDRESS)
            if packed is not None:
                found.append((index, socket.inet_ntop(family, packed), prefix))
        return found

    def routes(self) -> list[tuple[str, int, int]]:
        """(destination, prefix length, link index) of the main table's unicast routes, without the default ones."""
        found = []
        for data in self.dump(RTM_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(data)
            own = dict(attributes(data[_ROUTE.size :]))
            destination = own.get(RTA_DST)
            if table != RT_TABLE_MAIN or kind != RTN_UNICAST or destination is None:
                continue
            (index,) = _NUMBER.unpack(own.get(RTA_OIF, bytes(4)))
            found.append((socket.inet_ntop(family, destination), prefix, index))
        return found


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each; stops at what is none."""
    offset = 0
    while offset + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + size]
        offset += size + (-size % 4)


def _parse_link(data: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(data)
    own = dict(attributes(data[_LINK.size :]))
    info = dict(attributes(own.get(IFLA_LINKINFO, b"")))
    return Link(
        index,
        own.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        flags,
        own.get(IFLA_ADDRESS, b"").hex(":"),
        _NUMBER.unpack(own.get(IFLA_MASTER, bytes(4)))[0],
        info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        _NUMBER.unpack(own.get(IFLA_MTU, bytes(4)))[0],
        _NUMBER.unpack(own.get(IFLA_LINK, bytes(4)))[0],
    )
