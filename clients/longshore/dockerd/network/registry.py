"""The networks that there are: records, their subnets, and who is on them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Final

from longshore.api import errors
from longshore.dockerd.errors import Conflict
from longshore.dockerd.network import ipam
from longshore.dockerd.network.ipam import Address, Pool, Space
from longshore.dockerd.network.records import Endpoint, NetworkRecord, PoolRecord, Sandbox

PREDEFINED: Final = ("bridge", "host", "none")


class Network:
    """A record and what follows from it. `endpoints` is by container."""

    def __init__(self, record: NetworkRecord) -> None:
        self.record = record
        self.pools = [_pool(each) for each in record.pools]
        self.trouble = ""
        """Why it can't be used now, "" if it can."""
        self.endpoints: dict[str, tuple[Sandbox, Endpoint]] = {}
        for each, pool in zip(record.pools, self.pools, strict=True):
            _reserve(each, pool)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def is_default_bridge(self) -> bool:
        return self.record.name == "bridge" and self.record.driver == "bridge"

    @property
    def is_predefined(self) -> bool:
        return self.record.name in PREDEFINED

    @property
    def has_names(self) -> bool:
        """Whether the embedded DNS server serves it: every network of the user's."""
        return not self.is_predefined

    def gateway(self, version: int) -> str:
        """Where the way out leads, of the first subnet of that version: the bridge, or a router that the user named
        by the auxiliary address "DefaultGatewayIPv4"; "" without a subnet."""
        for pool, record in zip(self.pools, self.record.pools, strict=True):
            if pool.subnet.version == version:
                return record.auxiliary.get(f"DefaultGatewayIPv{version}") or record.gateway
        return ""

    def subnets(self, version: int) -> list[str]:
        return [str(pool.subnet) for pool in self.pools if pool.subnet.version == version]

    def gateways(self) -> tuple[str, ...]:
        """With their prefixes, as the bridge has them."""
        return tuple(
            f"{record.gateway}/{pool.subnet.prefixlen}"
            for pool, record in zip(self.pools, self.record.pools, strict=True)
            if record.gateway
        )

    def allocate(self, version: int, wanted: str = "") -> str:
        """An address with its prefix, the one that is wanted or the lowest free one; "" without such a subnet."""
        pools = [pool for pool in self.pools if pool.subnet.version == version]
        if wanted:
            return self._take(pools, ipam.parse_address(wanted))
        for pool in pools:
            address = pool.allocate()
            if address is not None:
                return f"{address}/{pool.subnet.prefixlen}"
        if not pools:
            return ""
        raise errors.PermissionDenied(
            f"no available IPv{version} addresses on this network's address pools: {self.name} ({self.id})"
        )

    def _take(self, pools: list[Pool], address: Address) -> str:
        for pool in pools:
            if address in pool.subnet:
                if not pool.take(address):
                    raise errors.PermissionDenied("Address already in use")
                return f"{address}/{pool.subnet.prefixlen}"
        raise errors.InvalidArgument(
            f"Invalid address {address}: It does not belong to any of this network's subnets"
        )

    def release(self, interface: str) -> None:
        """Of `allocate`; twice is once."""
        if interface:
            address = ipam.parse_address(interface.split("/")[0])
            for pool in self.pools:
                if address in pool.subnet:
                    pool.release(address)

    def adopt(self, interface: str) -> None:
        """A running container has it."""
        if interface:
            address = ipam.parse_address(interface.split("/")[0])
            for pool in self.pools:
                if address in pool.subnet:
                    pool.take(address)


def _pool(record: PoolRecord) -> Pool:
    subnet = ipam.parse_subnet(record.subnet)
    return Pool(subnet, ipam.parse_subnet(record.ip_range) if record.ip_range else None)


def _reserve(record: PoolRecord, pool: Pool) -> None:
    for address in (record.gateway, *record.auxiliary.values()):
        if address:
            pool.take(ipam.parse_address(address))


class Registry:
    """By ID, name and prefix of the ID."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._networks: dict[str, Network] = {}

    def __iter__(self) -> Iterator[Network]:
        return iter(list(self._networks.values()))

    def add(self, network: Network) -> None:
        self._networks[network.id] = network

    def remove(self, network: Network) -> None:
        """Its subnets are free again."""
        self._networks.pop(network.id, None)
        for pool in network.pools:
            self.space.release(pool.subnet)

    def by_name(self, name: str) -> Network | None:
        return next((each for each in self._networks.values() if each.name == name), None)

    def find(self, term: str) -> Network:
        """An ID, a name, or what only one ID begins with. NotFound: "network X not found"."""
        if term in self._networks:
            return self._networks[term]
        named = [each for each in self._networks.values() if each.name == term]
        if named:
            return named[0]
        begins = [each for each in self._networks.values() if term and each.id.startswith(term)]
        if len(begins) > 1:
            raise errors.InvalidArgument(f"network {term} is ambiguous ({len(begins)} matches found on name)")
        if not begins:
            raise errors.NotFound(f"network {term} not found")
        return begins[0]

    def check_free(self, name: str) -> None:
        if self.by_name(name) is not None:
            raise Conflict(f"network with name {name} already exists")


def new_id() -> str:
    return secrets.token_hex(32)


def now() -> int:
    """Unix nanoseconds."""
    return time.time_ns()
