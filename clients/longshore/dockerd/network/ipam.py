"""Which network has which subnet, and which address is whose.

Everything here is in memory and touches nothing: a network's pools are in its
record, the addresses in use follow from the containers that run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from longshore.api import errors

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

DEFAULT_POOLS: Final[tuple[tuple[str, int], ...]] = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)
"""(base, size of a network cut from it): the original's defaults for one host."""


class Blocks(NamedTuple):
    """Where subnets come from when the user names none."""

    base: Network
    size: int

    def subnets(self) -> Iterator[Network]:
        yield from self.base.subnets(new_prefix=max(self.size, self.base.prefixlen))


def default_blocks(pools: Iterable[tuple[str, int]] = DEFAULT_POOLS) -> tuple[Blocks, ...]:
    """ValueError names a pool that isn't one."""
    return tuple(_blocks(base, size) for base, size in pools)


def _blocks(base: str, size: int) -> Blocks:
    network = parse_subnet(base)
    if not network.prefixlen <= size <= network.max_prefixlen:
        raise ValueError(f"invalid pool size {size} for {base}")
    return Blocks(network, size)


def parse_subnet(text: str) -> Network:
    """A subnet as users write it: "10.1.2.3/24" is 10.1.2.0/24. ValueError."""
    if "/" not in text:
        raise ValueError(f"invalid subnet {text} : invalid CIDR block notation")
    return ip_network(text, strict=False)


class Pool:
    """The addresses of one subnet; `within` is the part that is given out unasked."""

    def __init__(self, subnet: Network, within: Network | None = None) -> None:
        self.subnet = subnet
        self.within = within or subnet
        self._taken: set[int] = set()
        self._first, self._last = self._bounds()
        # No free address lies below it.
        self._hint = self._first

    def _bounds(self) -> tuple[int, int]:
        first, last = int(self.within.network_address), int(self.within.broadcast_address)
        if self.subnet.max_prefixlen - self.subnet.prefixlen < 2:
            return first, last
        if first == int(self.subnet.network_address):
            first += 1
        if self.subnet.version == 4 and last == int(self.subnet.broadcast_address):
            last -= 1
        return first, last

    def allocate(self) -> Address | None:
        """The lowest free one; None when there is none."""
        value = self._hint
        while value in self._taken:
            value += 1
        if value > self._last:
            self._hint = self._last + 1
            return None
        self._taken.add(value)
        self._hint = value + 1
        return self._address(value)

    def take(self, address: Address) -> bool:
        """This very one; False if it is somebody's already. ValueError if it isn't of this subnet."""
        if address not in self.subnet:
            raise ValueError(f"{address} is not in {self.subnet}")
        value = int(address)
        if value in self._taken or not self._usable(value):
            return False
        self._taken.add(value)
        return True

    def _usable(self, value: int) -> bool:
        if self.subnet.max_prefixlen - self.subnet.prefixlen < 2:
            return True
        if value == int(self.subnet.network_address):
            return False
        return self.subnet.version == 6 or value != int(self.subnet.broadcast_address)

    def release(self, address: Address) -> None:
        """Twice is once."""
        value = int(address)
        self._taken.discard(value)
        if self._first <= value < self._hint:
            self._hint = value

    def _address(self, value: int) -> Address:
        return IPv4Address(value) if self.subnet.version == 4 else IPv6Address(value)


class Space:
    """The subnets of this host: which are ours, and which are free."""

    def __init__(self, blocks: Sequence[Blocks]) -> None:
        self._blocks = tuple(blocks)
        self._taken: dict[Network, int] = {}

    def reserve(self, subnet: Network) -> None:
        """PermissionDenied (403, as the original answers) if it overlaps one of ours."""
        for other in self._taken:
            if overlap(subnet, other):
                raise errors.PermissionDenied("Pool overlaps with other one on this address space")
        self._taken[subnet] = 1

    def release(self, subnet: Network) -> None:
        self._taken.pop(subnet, None)

    def cut(self, version: int, in_use: Iterable[Network] = ()) -> Network:
        """A free subnet out of the blocks that overlaps neither ours nor `in_use` (the host's routes)."""
        busy = [*self._taken, *in_use]
        for block in self._blocks:
            if block.base.version != version:
                continue
            for subnet in block.subnets():
                if not any(overlap(subnet, other) for other in busy):
                    self._taken[subnet] = 1
                    return subnet
        raise errors.InvalidArgument(
            f"could not find an available, non-overlapping IPv{version} address pool among the defaults to "
            "assign to the network"
        )

    def unique_local(self, seed: str) -> Network:
        """An IPv6 /64 of fd00::/8, out of the hex digits of `seed`; the next one where that is taken."""
        start = int(seed[:10], 16)
        while True:
            subnet = unique_local(start)
            if not any(overlap(subnet, other) for other in self._taken):
                self._taken[subnet] = 1
                return subnet
            start += 1


def unique_local(number: int) -> IPv6Network:
    """The first /64 of the site that `number` (40 bits) names in fd00::/8."""
    return IPv6Network(((0xFD << 120) | ((number & 0xFFFFFFFFFF) << 80), 64))


def overlap(a: Network, b: Network) -> bool:
    """Whether they share an address; False across versions."""
    if isinstance(a, IPv4Network):
        return isinstance(b, IPv4Network) and a.overlaps(b)
    return isinstance(b, IPv6Network) and a.overlaps(b)


def parse_address(text: str) -> Address:
    """ValueError."""
    return ip_address(text)


def mac_of(address: Address) -> str:
    """The MAC address that follows from an IPv4 address: locally administered, as the original makes it."""
    return "02:42:" + address.packed[-4:].hex(":")
