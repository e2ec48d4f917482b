"""What the daemon's configuration says of networks, with the defaults filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from longshore.api import errors
from longshore.dockerd.network import ipam

if TYPE_CHECKING:
    from longshore.dockerd.config import Config


class Settings(NamedTuple):
    """One value each; see `of`."""

    data_root: str
    exec_root: str
    bridge: str = ""
    """An existing bridge instead of docker0; "none": no default bridge."""
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    mtu: int = 0
    icc: bool = True
    ipv6: bool = False
    iptables: bool = True
    ip6tables: bool = False
    ip_forward: bool = True
    ip_masq: bool = True
    ip: str = "0.0.0.0"
    """Where ports are published that name no address."""
    userland_proxy: bool = True
    userland_proxy_path: str = ""
    pools: tuple[ipam.Blocks, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    host_gateway: str = ""


def of(config: Config) -> Settings:
    """From the daemon's configuration. InvalidArgument for an address pool that isn't one."""
    taken = {name: getattr(config, name) for name in Settings._fields if hasattr(config, name)}
    return Settings(**taken)._replace(
        dns=tuple(config.dns),
        dns_search=tuple(config.dns_search),
        dns_options=tuple(config.dns_opts),
        host_gateway=config.host_gateway_ip,
        pools=_pools(config),
    )


def _pools(config: Config) -> tuple[ipam.Blocks, ...]:
    pairs = [(pool.base, pool.size) for pool in config.default_address_pools]
    try:
        return ipam.default_blocks(pairs or ipam.DEFAULT_POOLS)
    except ValueError as error:
        raise errors.InvalidArgument(f"invalid default address pool: {error}") from None
