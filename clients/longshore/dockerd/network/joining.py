"""What a container's join amounts to, worked out before anything is made. Touches nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from longshore.api import errors
from longshore.dockerd.network import files, ipam, netlink
from longshore.dockerd.network.records import Endpoint, Sandbox
from longshore.dockerd.records import EndpointSettings, named_links

if TYPE_CHECKING:
    from longshore.dockerd.network.registry import Network, Registry
    from longshore.dockerd.network.settings import Settings
    from longshore.dockerd.records import Container

_HAS_LINKS: Final = ("bridge", "macvlan")


def rename(networks: dict[str, EndpointSettings], network: Network) -> None:
    """What was asked for under the network's ID, or "default", stands under its name."""
    terms = [network.id, *(term for term in networks if len(term) >= 4 and network.id.startswith(term))]
    if network.is_default_bridge:
        terms.append("default")
    for term in terms:
        if term in networks and term != network.name:
            networks.setdefault(network.name, networks.pop(term))


def network_name(term: str, networks: Iterable[Network]) -> str:
    """The name behind a key of a record's networks: a name, an ID, "default"; what is unknown stays as it is."""
    if term == "default":
        return "bridge"
    return next((each.name for each in networks if means(term, each)), term)


def check(network: Network, asked: EndpointSettings) -> None:
    """Whether an endpoint can be like that. InvalidArgument, in the original's words."""
    wrong: list[str] = []
    config = asked.ipam_config
    fixed = [each for each in (config.ipv4_address, config.ipv6_address) if each] if config else []
    for text in (config.link_local_ips if config else None) or ():
        try:
            ipam.parse_address(text)
        except ValueError:
            wrong.append(f"invalid link-local IP address: {text}")
    if network.record.config_only:
        raise errors.PermissionDenied("cannot create endpoint on configuration-only network")
    if network.is_predefined:
        if fixed:
            wrong.append("user specified IP address is supported on user defined networks only")
        if asked.aliases:
            wrong.append("network-scoped alias is supported only for containers in user defined networks")
    elif fixed:
        wrong += _unfit(network, fixed)
    if asked.mac_address:
        try:
            netlink.mac_bytes(asked.mac_address)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise errors.InvalidArgument("\n".join(wrong))


def _unfit(network: Network, fixed: Iterable[str]) -> Iterable[str]:
    for text in fixed:
        try:
            address = ipam.parse_address(text)
        except ValueError:
            yield f"invalid IP address: {text}"
            continue
        own = [
            (pool, record)
            for pool, record in zip(network.pools, network.record.pools, strict=True)
            if pool.subnet.version == address.version
        ]
        if not any(record.configured for _, record in own):
            yield (
                "user specified IP address is supported only when connecting to networks with user configured "
                "subnets"
            )
        elif not any(address in pool.subnet for pool, _ in own):
            yield f"Invalid address {text}: It does not belong to any of this network's subnets"


def plan(sandbox: Sandbox, container: Container, network: Network, wanted: EndpointSettings) -> Endpoint:
    """An endpoint with its addresses reserved; errors of `Network.allocate`."""
    endpoint = Endpoint(id=secrets.token_hex(32), network=network.id, priority=wanted.gw_priority)
    if network.record.driver not in _HAS_LINKS:
        return endpoint
    asked = wanted.ipam_config
    endpoint.ipv4 = network.allocate(4, asked.ipv4_address if asked else "")
    if network.record.enable_ipv6:
        try:
            endpoint.ipv6 = network.allocate(6, asked.ipv6_address if asked else "")
        except BaseException:
            network.release(endpoint.ipv4)
            raise
    endpoint.interface = _next_interface(sandbox)
    if network.record.driver == "bridge":
        endpoint.link = f"veth{secrets.token_hex(4)[:7]}"
    asked_mac = wanted.mac_address or container.config.mac_address
    endpoint.mac, endpoint.mac_asked = asked_mac or _mac(endpoint), bool(asked_mac)
    endpoint.links = {alias.lower(): target for target, alias in named_links(wanted.links or ())}
    if not network.record.internal:
        endpoint.gateway4, endpoint.gateway6 = network.gateway(4), network.gateway(6)
        if not endpoint.ipv6:
            endpoint.gateway6 = ""
    endpoint.names = names(container, wanted)
    offered = {**(container.config.exposed_ports or {}), **(container.host_config.port_bindings or {})}
    endpoint.offers = sorted(offered)
    return endpoint


def _mac(endpoint: Endpoint) -> str:
    if not endpoint.ipv4:
        return "02:42:" + secrets.token_bytes(4).hex(":")
    return ipam.mac_of(ipam.parse_address(endpoint.ipv4.split("/")[0]))


def _next_interface(sandbox: Sandbox) -> str:
    taken = {each.interface for each in sandbox.endpoints}
    number = 0
    while f"eth{number}" in taken:
        number += 1
    return f"eth{number}"


def names(container: Container, wanted: EndpointSettings) -> list[str]:
    """What the container is called on a network: its name, aliases, short ID, hostname; each once."""
    found = [container.name, *(wanted.aliases or ()), container.id[:12]]
    if container.config.hostname:
        found.append(container.config.hostname)
    return list(dict.fromkeys(found))


def joined(asked: EndpointSettings, network: Network, endpoint: Endpoint) -> EndpointSettings:
    """The record's settings with what was got."""
    address, prefix = _split(endpoint.ipv4)
    address6, prefix6 = _split(endpoint.ipv6)
    asked.network_id, asked.endpoint_id = network.id, endpoint.id
    asked.gateway = endpoint.gateway4
    asked.ip_address, asked.ip_prefix_len = address, prefix
    asked.ipv6_gateway = endpoint.gateway6
    asked.global_ipv6_address, asked.global_ipv6_prefix_len = address6, prefix6
    asked.mac_address = endpoint.mac
    asked.dns_names = list(endpoint.names) if network.has_names else None
    return asked


def left(settings: EndpointSettings, endpoint: Endpoint) -> EndpointSettings:
    """What was asked for alone."""
    return EndpointSettings(
        mac_address=endpoint.mac if endpoint.mac_asked else "",
        ipam_config=settings.ipam_config,
        links=settings.links,
        aliases=settings.aliases,
        network_id=settings.network_id,
        driver_opts=settings.driver_opts,
        dns_names=settings.dns_names,
        gw_priority=settings.gw_priority,
    )


def _split(interface: str) -> tuple[str, int]:
    address, _, prefix = interface.partition("/")
    return address, int(prefix or 0)


def ordered(sandbox: Sandbox, registry: Registry) -> list[tuple[Network, Endpoint]]:
    """By what counts for the way out: priority, then the network's name."""
    known = {network.id: network for network in registry}
    found = [(known[each.network], each) for each in sandbox.endpoints if each.network in known]
    return sorted(found, key=lambda pair: (-pair[1].priority, pair[0].name))


def means(term: str, network: Network) -> bool:
    """Whether a network mode names this network."""
    return term in (network.name, network.id) or (len(term) >= 4 and network.id.startswith(term))


def gateways(sandbox: Sandbox, registry: Registry) -> tuple[tuple[str, str], tuple[str, str]]:
    """(interface, gateway) of the default routes for IPv4 and IPv6: of the network with the highest priority, then
    the one whose name comes first."""
    order = [endpoint for _, endpoint in ordered(sandbox, registry)]
    via4 = next(((each.interface, each.gateway4) for each in order if each.gateway4), ("", ""))
    via6 = next(((each.interface, each.gateway6) for each in order if each.gateway6), ("", ""))
    return via4, via6


def hosts(
    container: Container, sandbox: Sandbox, gateway: str, linked: Iterable[tuple[str, str]] = ()
) -> str:
    """The text of /etc/hosts; with the host's network it begins as the host's own."""
    extra = list(_extra(container.host_config.extra_hosts or (), gateway))
    if sandbox.mode == "host":
        return _of_host() + "".join(f"{address}\t{name}\n" for address, name in extra)
    own = [entry for each in sandbox.endpoints for entry in own_entries(container, each)]
    return files.hosts([*extra, *linked, *own])


def own_entries(container: Container, endpoint: Endpoint) -> list[tuple[str, str]]:
    """The hosts file's lines about the container itself."""
    own = _own_names(container)
    return [(_split(text)[0], own) for text in (endpoint.ipv4, endpoint.ipv6) if text]


def _own_names(container: Container) -> str:
    hostname = container.config.hostname or container.id[:12]
    domain = container.config.domainname
    if domain:
        return f"{hostname}.{domain} {hostname}"
    short, dot, _ = hostname.partition(".")
    return f"{hostname} {short}" if dot else hostname


def _extra(entries: Iterable[str], gateway: str) -> Iterable[tuple[str, str]]:
    for entry in entries:
        name, _, address = entry.partition(":" if ":" in entry.split("=", 1)[0] else "=")
        yield (gateway if address == "host-gateway" else address.strip("[]"), name)


def _of_host() -> str:
    try:
        with open("/etc/hosts", encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return files.hosts(())


def resolver(container: Container, settings: Settings, *, embedded: bool, host: bool) -> files.Resolver:
    """What /etc/resolv.conf says: the container's own wishes, the daemon's, the host's, in this order."""
    found = files.host_resolver()
    asked = container.host_config
    search = tuple(asked.dns_search or settings.dns_search or found.search)
    options = tuple(asked.dns_options or settings.dns_options or found.options)
    servers = tuple(asked.dns or settings.dns)
    if embedded:
        if not any(option.startswith("ndots:") for option in options):
            options = (*options, "ndots:0")
        return files.Resolver((files.EMBEDDED,), search, options)
    if not servers:
        servers = found.servers if host else files.usable(found.servers, ipv6=False)
    return files.Resolver(servers, search, options)
