"""From the body of a create to a record: subnets, gateways, checks. Touches nothing but the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longshore.api import errors
from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import ipam
from longshore.dockerd.network.ipam import Network as Subnet
from longshore.dockerd.network.records import NetworkRecord, PoolRecord
from longshore.dockerd.network.registry import new_id, now

if TYPE_CHECKING:
    from longshore.dockerd.network.documents import CreateBody, IpamPool
    from longshore.dockerd.network.drivers import Drivers
    from longshore.dockerd.network.registry import Registry

_IPV6 = "com.docker.network.enable_ipv6"


def has_subnet(body: CreateBody) -> bool:
    return any(pool.subnet for pool in (body.ipam.config if body.ipam else None) or ())


def record(body: CreateBody, registry: Registry, drivers: Drivers, routes: Sequence[Subnet]) -> NetworkRecord:
    """Its subnets are reserved; `forget` frees them. `routes` are the host's, which a chosen subnet must not hide."""
    if not body.name.strip():
        raise errors.InvalidArgument("invalid name: name is empty")
    _check_kind(body)
    body = _from_configuration(body, registry)
    made = NetworkRecord(
        id=new_id(),
        name=body.name,
        driver=body.driver or "bridge",
        created_ns=now(),
        internal=body.internal,
        attachable=body.attachable,
        enable_ipv4=body.enable_ipv4 is not False,
        enable_ipv6=bool(body.enable_ipv6) or (body.options or {}).get(_IPV6) == "true",
        options=dict(body.options or {}),
        labels=dict(body.labels or {}),
        ipam_driver=(body.ipam.driver if body.ipam else "") or "default",
        ipam_options=body.ipam.options if body.ipam else None,
        config_only=body.config_only,
        config_from=body.config_from.network if body.config_from else "",
    )
    if made.ipam_driver != "default":
        raise errors.InvalidArgument(f'invalid ipam driver: "{made.ipam_driver}"')
    wanted = [_checked(pool) for pool in (body.ipam.config if body.ipam else None) or ()]
    if made.config_only:
        made.driver = "null"
        made.pools = wanted
        return made
    drivers.of(made.driver).check(made, registry)
    _settle(made, wanted, registry, routes)
    return made


def _check_kind(body: CreateBody) -> None:
    if body.ingress:
        raise errors.PermissionDenied("Ingress network can only be global scope network")
    if body.scope not in ("", "local") or body.driver == "overlay":
        raise errors.PermissionDenied(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this '
            "node to swarm and try again."
        )


def _from_configuration(body: CreateBody, registry: Registry) -> CreateBody:
    """With --config-from the addresses and options are another network's."""
    source = body.config_from.network if body.config_from else ""
    if not source:
        return body
    found = registry.by_name(source)
    if found is None or not found.record.config_only:
        raise errors.NotFound(f'configuration network "{source}" not found')
    if has_subnet(body) or body.options:
        raise errors.PermissionDenied(
            "user-specified configurations are not supported if the network depends on a configuration network"
        )
    from longshore.dockerd.network.documents import Ipam, IpamPool

    body.options = dict(found.record.options)
    body.enable_ipv6 = found.record.enable_ipv6
    body.internal = body.internal or found.record.internal
    body.ipam = Ipam(
        config=[
            IpamPool(
                subnet=pool.subnet,
                ip_range=pool.ip_range,
                gateway=pool.gateway,
                auxiliary_addresses=pool.auxiliary,
            )
            for pool in found.record.pools
        ]
    )
    return body


def _checked(pool: IpamPool) -> PoolRecord:
    """As given, its parts in agreement. InvalidArgument lists what is wrong with it."""
    wrong: list[str] = []
    try:
        subnet = ipam.parse_subnet(pool.subnet) if pool.subnet else None
    except ValueError:
        raise errors.InvalidArgument(
            f"Invalid subnet {pool.subnet} : invalid CIDR address: {pool.subnet}"
        ) from None
    if subnet is None:
        if pool.gateway or pool.ip_range or pool.auxiliary_addresses:
            raise errors.InvalidArgument("every ip-range or gateway must have a corresponding subnet")
        return PoolRecord(subnet="")
    if str(subnet) != pool.subnet:
        wrong.append(f"invalid subnet {pool.subnet}: it should be {subnet}")
    if pool.gateway:
        wrong += _outside(f"invalid gateway {pool.gateway}", pool.gateway, subnet)
    for name, address in (pool.auxiliary_addresses or {}).items():
        wrong += _outside(f"invalid auxiliary address {name}", address, subnet)
    if pool.ip_range:
        wrong += _wrong_range(pool.ip_range, subnet)
    if wrong:
        raise errors.InvalidArgument("invalid network config:\n" + "\n".join(wrong))
    return PoolRecord(
        subnet=str(subnet),
        gateway=pool.gateway,
        ip_range=pool.ip_range,
        auxiliary=dict(pool.auxiliary_addresses or {}),
        configured=True,
    )


def _outside(what: str, text: str, subnet: Subnet) -> list[str]:
    try:
        address = ipam.parse_address(text)
    except ValueError:
        return [f"{what}: invalid address"]
    if address.version != subnet.version:
        return [f"{what}: parent subnet is an IPv{subnet.version} block"]
    return [] if address in subnet else [f"{what}: parent subnet {subnet} doesn't contain this address"]


def _wrong_range(text: str, subnet: Subnet) -> list[str]:
    try:
        part = ipam.parse_subnet(text)
    except ValueError:
        return [f"invalid ip-range {text}: invalid CIDR block notation"]
    if part.version != subnet.version:
        return [f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block"]
    if part.prefixlen < subnet.prefixlen:
        return [f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"]
    if str(part) != text:
        return [f"invalid ip-range {text}: it should be {part}"]
    if not ipam.overlap(part, subnet):
        return [f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"]
    return []


def _settle(
    made: NetworkRecord, wanted: list[PoolRecord], registry: Registry, routes: Sequence[Subnet]
) -> None:
    """Every pool with subnet and gateway, reserved; a network without any gets one per version."""
    pools = [pool for pool in wanted if pool.subnet]
    families = [ipam.parse_subnet(pool.subnet).version for pool in pools]
    versions = set(families)
    if made.driver == "bridge" and len(families) > len(versions):
        raise errors.PermissionDenied("bridge driver doesn't support multiple subnets")
    if 6 in versions:
        made.enable_ipv6 = True
    try:
        for pool in pools:
            registry.space.reserve(ipam.parse_subnet(pool.subnet))
            made.pools.append(pool)
        if made.enable_ipv4 and 4 not in versions:
            made.pools.append(PoolRecord(subnet=str(registry.space.cut(4, routes))))
        if made.enable_ipv6 and 6 not in versions:
            made.pools.append(PoolRecord(subnet=str(registry.space.unique_local(made.id))))
        for pool in made.pools:
            pool.gateway = pool.gateway or _first(pool)
    except BaseException:
        forget(made, registry)
        raise


def _first(record: PoolRecord) -> str:
    """The lowest address that may be given out. Raises ServerError where there is none."""
    subnet = ipam.parse_subnet(record.subnet)
    if subnet.num_addresses <= 2:
        raise ServerError("failed to allocate gateway (): No available addresses on this pool")
    pool = ipam.Pool(subnet, ipam.parse_subnet(record.ip_range) if record.ip_range else None)
    for address in record.auxiliary.values():
        pool.take(ipam.parse_address(address))
    return str(pool.allocate() or "")


def forget(made: NetworkRecord, registry: Registry) -> None:
    """The record's subnets are free again."""
    for pool in made.pools:
        registry.space.release(ipam.parse_subnet(pool.subnet))
    made.pools = []
