"""Links, addresses and namespaces, made in one thread that may enter namespaces.

All methods here block for about a millisecond and run in that thread; the
manager awaits them through `Kernel.run`. Every one can be repeated.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ipaddress import ip_interface
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, TypeVar

import structlog

from longshore.dockerd.network import namespaces, netlink
from longshore.dockerd.network.ipam import Network, parse_subnet
from longshore.dockerd.network.netlink import Netlink
from longshore.dockerd.network.records import Endpoint

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_LOOPBACK: Final = 1
_ABSENT: Final = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)


class BridgePlan(NamedTuple):
    """`addresses` are "a.b.c.d/n"; the bridge may be there already, with or without them."""

    name: str
    addresses: tuple[str, ...]
    mtu: int = 0
    ipv6: bool = False
    route_localnet: bool = False
    filtered: bool = False
    """Frames between its ports pass the packet filter too."""


class Attachment(NamedTuple):
    """An end of a network inside a namespace: a veth into a bridge, or a macvlan on a parent."""

    endpoint: Endpoint
    namespace: str
    bridge: str = ""
    parent: str = ""
    mode: str = "bridge"
    mtu: int = 0
    hairpin: bool = False


class Kernel:
    """`await kernel.run(kernel.make_bridge, plan)`; `close` at the end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._host: Netlink | None = None

    async def run(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """In the thread; a cancelled wait doesn't stop what has begun."""
        future = self._thread.submit(function, *arguments, **options)
        return await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        self._thread.shutdown()
        if self._host is not None:
            self._host.close()

    @property
    def host(self) -> Netlink:
        """The host's socket, made by the thread's first call, before it enters anything."""
        if self._host is None:
            self._host = Netlink()
        return self._host

    # Host.

    def make_bridge(self, plan: BridgePlan) -> bool:
        """Whether it was made; False if it was there (then only what lacks is added)."""
        host = self.host
        found = host.link(plan.name)
        if found is not None and found.kind != "bridge":
            raise FileExistsError(errno.EEXIST, f"{plan.name} exists and is no bridge")
        if found is None:
            # Without an address of its own it would take, and change, that of one of its ports.
            host.do(netlink.new_bridge(plan.name, plan.mtu, f"02:42:{os.urandom(4).hex(':')}"))
        index = host.index(plan.name)
        _sysctl(f"ipv6/conf/{plan.name}/disable_ipv6", "0" if plan.ipv6 else "1")
        if plan.ipv6:
            _sysctl(f"ipv6/conf/{plan.name}/accept_ra", "0")
        if plan.route_localnet:
            namespaces.write_sysctl(f"ipv4/conf/{plan.name}/route_localnet", "1")
        if plan.filtered:
            _filter_bridges()
        self._replace_addresses(index, plan.addresses)
        host.do(netlink.set_up(index))
        return found is None

    def _replace_addresses(self, index: int, wanted: Iterable[str]) -> None:
        host = self.host
        interfaces = {ip_interface(each) for each in wanted}
        there = {
            ip_interface(f"{address}/{prefix}") for link, address, prefix in host.addresses() if link == index
        }
        stale = [each for each in there - interfaces if not each.ip.is_link_local]
        host.do(*(netlink.delete_address(index, each) for each in stale), ignore=_ABSENT)
        host.do(*(netlink.add_address(index, each) for each in interfaces - there), ignore=(errno.EEXIST,))

    def remove_link(self, name: str) -> None:
        """Twice is once."""
        self.host.do(netlink.delete_link(name=name), ignore=_ABSENT)

    def remove_links(self, names: Iterable[str]) -> None:
        messages = [netlink.delete_link(name=name) for name in names]
        if messages:
            self.host.do(*messages, ignore=_ABSENT)

    def make_parent(self, name: str) -> bool:
        """The link that a macvlan stands on; whether it was made (a VLAN "eth0.50", or one that leads nowhere)."""
        host = self.host
        if host.link(name) is not None:
            return False
        parent, dot, tag = name.rpartition(".")
        if dot and tag.isdigit():
            host.do(netlink.new_vlan(name, host.index(parent), int(tag)))
        elif name.startswith("dm-"):
            host.do(netlink.new_dummy(name))
        else:
            raise FileNotFoundError(errno.ENODEV, f"invalid subinterface vlan name {name}, no such link")
        return True

    def links(self) -> list[netlink.Link]:
        return self.host.links()

    def routes(self) -> list[Network]:
        """The host's destinations, which a new subnet must not hide."""
        return [parse_subnet(f"{address}/{prefix}") for address, prefix, _ in self.host.routes()]

    def bridge_addresses(self, name: str) -> list[str]:
        """ "a.b.c.d/n" of a link; empty if it isn't there."""
        found = self.host.link(name)
        if found is None:
            return []
        return [
            f"{address}/{prefix}" for index, address, prefix in self.host.addresses() if index == found.number
        ]

    # Namespaces.

    def make_namespace(self, path: str) -> None:
        """A new one, loopback up, held by the file `path`."""
        _ = self.host
        namespaces.remove(path)
        fd = namespaces.make(path)
        try:
            with namespaces.inside(fd), Netlink() as own:
                own.do(netlink.set_up(_LOOPBACK))
        except BaseException:
            namespaces.remove(path)
            raise
        finally:
            os.close(fd)

    def remove_namespace(self, path: str) -> None:
        namespaces.remove(path)

    @contextmanager
    def _inside(self, path: str) -> Iterator[tuple[int, Netlink]]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with namespaces.inside(fd), Netlink() as own:
                yield fd, own
        finally:
            os.close(fd)

    def inside(self, path: str, function: Callable[[], T]) -> T:
        """`function` in the namespace; sockets that it makes stay there."""
        with self._inside(path):
            return function()

    # Endpoints.

    def attach(self, attachment: Attachment) -> None:
        """The interface, up, with its addresses; for the way out see `set_gateways`."""
        endpoint = attachment.endpoint
        host = self.host
        with self._inside(attachment.namespace) as (namespace, own):
            peer = netlink.Peer(endpoint.interface, namespace, endpoint.mac)
            if endpoint.ipv6:
                namespaces.write_sysctl("ipv6/conf/default/disable_ipv6", "0")
            try:
                if attachment.bridge:
                    master = host.index(attachment.bridge)
                    host.do(netlink.new_veth(endpoint.link, peer, master, attachment.mtu))
                else:
                    parent = host.index(attachment.parent)
                    host.do(netlink.new_macvlan(peer, parent, attachment.mode, attachment.mtu))
            finally:
                if endpoint.ipv6:
                    namespaces.write_sysctl("ipv6/conf/default/disable_ipv6", "1")
            index = own.index(endpoint.interface)
            addresses = [endpoint.address(4), endpoint.address(6)]
            own.do(
                *(netlink.add_address(index, each) for each in addresses if each is not None),
                netlink.set_up(index),
            )
            if endpoint.ipv4 and attachment.bridge:
                # The bridge may still know the address of one that has gone, behind another port.
                _gratuitous_arp(endpoint.interface, endpoint.ipv4.split("/")[0])
        if attachment.hairpin and endpoint.link:
            host.do(netlink.set_hairpin(host.index(endpoint.link), True))

    def detach(self, namespace: str, endpoint: Endpoint) -> None:
        """Twice is once; the namespace may be gone."""
        if endpoint.link:
            self.remove_link(endpoint.link)
            return
        with suppress(FileNotFoundError), self._inside(namespace) as (_, own):
            own.do(netlink.delete_link(name=endpoint.interface), ignore=_ABSENT)

    def set_gateways(
        self, namespace: str, via4: tuple[str, str], via6: tuple[str, str], fresh: bool = False
    ) -> None:
        """(interface, gateway) of the default routes, ("", "") for none; others, unless `fresh`, are taken away."""
        if fresh and not via4[0] and not via6[0]:
            return
        with self._inside(namespace) as (_, own):
            for version, (interface, gateway) in ((4, via4), (6, via6)):
                if not fresh:
                    self._drop_defaults(own, version)
                if interface:
                    own.do(netlink.add_default(gateway, own.index(interface), version))

    def _drop_defaults(self, own: Netlink, version: int) -> None:
        for index in _default_links(version):
            own.do(netlink.delete_default("", index, version), ignore=_ABSENT)


def _default_links(version: int) -> list[int]:
    """Indices of the links that a default route of the thread's namespace leaves by."""
    indices = []
    with suppress(FileNotFoundError):
        if version == 4:
            for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]:
                name, destination, *_ = line.split()
                if destination == "00000000":
                    indices.append(socket.if_nametoindex(name))
        else:
            for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines():
                words = line.split()
                if words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo":
                    indices.append(socket.if_nametoindex(words[9]))
    return indices


def _gratuitous_arp(interface: str, address: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0x0806))
        mac = raw.getsockname()[4]
        own = socket.inet_aton(address)
        frame = b"\xff" * 6 + mac + b"\x08\x06"
        frame += b"\x00\x01\x08\x00\x06\x04\x00\x01" + mac + own + bytes(6) + own
        raw.send(frame)


def _filter_bridges() -> None:
    """Where the kernel can't, containers of such a network reach each other all the same: say so."""
    if not Path("/proc/sys/net/bridge").exists():
        with suppress(OSError):
            subprocess.run(["modprobe", "-q", "br_netfilter"], capture_output=True, timeout=10)
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        try:
            namespaces.write_sysctl(f"bridge/{name}", "1")
        except OSError as error:
            log.warning("frames between containers of one bridge can't be filtered", reason=str(error))
            return


def _sysctl(name: str, value: str) -> None:
    """Where IPv6 is compiled out or off at boot there is nothing to set."""
    with suppress(FileNotFoundError):
        namespaces.write_sysctl(name, value)


def forward(version: int) -> bool:
    """Let the host forward packets; whether that was off before."""
    name = "ipv4/ip_forward" if version == 4 else "ipv6/conf/all/forwarding"
    path = Path("/proc/sys/net") / name
    if path.read_text().strip() == "1":
        return False
    namespaces.write_sysctl(name, "1")
    if version == 6:
        namespaces.write_sysctl("ipv6/conf/default/forwarding", "1")
    return True
