"""What a container's join amounts to, worked out before anything is made. Touches nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from longshore.dockerd.network import files, ipam
from longshore.dockerd.network.records import Endpoint, Sandbox
from longshore.dockerd.records import EndpointSettings

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
    endpoint.mac = wanted.mac_address or container.config.mac_address or _mac(endpoint)
    if not network.record.internal:
        endpoint.gateway4, endpoint.gateway6 = network.gateway(4), network.gateway(6)
        if not endpoint.ipv6:
            endpoint.gateway6 = ""
    endpoint.names = names(container, wanted)
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


def left(settings: EndpointSettings) -> EndpointSettings:
    """What was asked for alone."""
    return EndpointSettings(
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


def gateways(sandbox: Sandbox, registry: Registry) -> tuple[tuple[str, str], tuple[str, str]]:
    """(interface, gateway) of the default routes for IPv4 and IPv6: of the network with the highest priority, then
    the one whose name comes first."""
    known = {network.id: network for network in registry}
    order = sorted(sandbox.endpoints, key=lambda each: (-each.priority, known[each.network].name))
    via4 = next(((each.interface, each.gateway4) for each in order if each.gateway4), ("", ""))
    via6 = next(((each.interface, each.gateway6) for each in order if each.gateway6), ("", ""))
    return via4, via6


def hosts(container: Container, sandbox: Sandbox, gateway: str, host: bool) -> str:
    """The text of /etc/hosts; with the host's network it begins as the host's own."""
    extra = list(_extra(container.host_config.extra_hosts or (), gateway))
    if host:
        return _of_host() + "".join(f"{address}\t{name}\n" for address, name in extra)
    own = _own_names(container)
    addresses = [_split(text)[0] for each in sandbox.endpoints for text in (each.ipv4, each.ipv6) if text]
    return files.hosts([*extra, *((address, own) for address in addresses)])


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
