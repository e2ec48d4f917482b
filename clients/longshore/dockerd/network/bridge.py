"""The bridge driver: a Linux bridge per network, its rules, and veths into it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Final

from longshore.api import errors
from longshore.dockerd.network import ipam, kernel, rules
from longshore.dockerd.network.kernel import Attachment, BridgePlan
from longshore.dockerd.network.records import NetworkRecord, PoolRecord
from longshore.dockerd.network.registry import new_id, now
from longshore.dockerd.network.rules import Rule

if TYPE_CHECKING:
    from longshore.dockerd.network.firewall import Firewall
    from longshore.dockerd.network.kernel import Kernel
    from longshore.dockerd.network.records import Endpoint, Sandbox
    from longshore.dockerd.network.registry import Network, Registry
    from longshore.dockerd.network.settings import Settings

NAME: Final = "com.docker.network.bridge.name"
DEFAULT: Final = "com.docker.network.bridge.default_bridge"
ICC: Final = "com.docker.network.bridge.enable_icc"
MASQUERADE: Final = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING: Final = "com.docker.network.bridge.host_binding_ipv4"
HOST_IPV4: Final = "com.docker.network.host_ipv4"
MTU: Final = "com.docker.network.driver.mtu"

DOCKER0: Final = "docker0"


class Bridges:
    """`bring_up` and `take_down` may be repeated."""

    def __init__(self, settings: Settings, kernel: Kernel, firewalls: dict[int, Firewall]) -> None:
        self._settings, self._kernel, self._firewalls = settings, kernel, firewalls

    async def default_record(self, last: NetworkRecord | None, space: ipam.Space) -> NetworkRecord:
        """The default bridge as the configuration wants it; with nothing said, as it was, or as the link is."""
        link = self._settings.bridge or DOCKER0
        pools = [await self._default_pool(link, last, space)]
        if self._settings.ipv6:
            pools.append(self._default_pool6(last))
        options = {
            DEFAULT: "true",
            ICC: _word(self._settings.icc),
            MASQUERADE: _word(self._settings.ip_masq),
            HOST_BINDING: self._settings.ip,
            NAME: link,
            MTU: str(self._settings.mtu or 1500),
        }
        return NetworkRecord(
            id=last.id if last else new_id(),
            name="bridge",
            driver="bridge",
            created_ns=last.created_ns if last else now(),
            enable_ipv6=self._settings.ipv6,
            options=options,
            pools=pools,
            link=link,
            link_is_ours=not self._settings.bridge,
        )

    async def _default_pool(self, link: str, last: NetworkRecord | None, space: ipam.Space) -> PoolRecord:
        text = self._settings.bip
        if not text:
            there = await self._kernel.run(self._kernel.bridge_addresses, link)
            text = next((each for each in there if "." in each), "")
        if text:
            interface = ip_interface(text)
            subnet, gateway = str(interface.network), str(interface.ip)
        elif last is not None and last.pools:
            subnet, gateway = last.pools[0].subnet, last.pools[0].gateway
        else:
            network = space.cut(4, await self._kernel.run(self._kernel.routes))
            space.release(network)
            subnet, gateway = str(network), str(network[1])
        router = self._settings.default_gateway
        auxiliary = {"DefaultGatewayIPv4": router} if router else {}
        return PoolRecord(
            subnet=subnet, gateway=gateway, ip_range=self._settings.fixed_cidr, auxiliary=auxiliary
        )

    def _default_pool6(self, last: NetworkRecord | None) -> PoolRecord:
        text = self._settings.bip6 or self._settings.fixed_cidr_v6
        found = next((pool for pool in (last.pools if last else ()) if ":" in pool.subnet), None)
        if text:
            interface = ip_interface(text)
            subnet = interface.network
            gateway = interface.ip if self._settings.bip6 else subnet[1]
        elif found is not None:
            return found
        else:
            subnet = ipam.unique_local(int(new_id()[:10], 16))
            gateway = subnet[1]
        router = self._settings.default_gateway_v6
        auxiliary = {"DefaultGatewayIPv6": router} if router else {}
        return PoolRecord(subnet=str(subnet), gateway=str(gateway), auxiliary=auxiliary)

    def check(self, record: NetworkRecord, registry: Registry) -> None:
        """See `drivers.Driver`."""
        link = record.options.get(NAME) or f"br-{record.id[:12]}"
        if len(link) > 15 or "/" in link:
            raise errors.InvalidArgument(f"invalid bridge name {link!r}: at most 15 characters, no slash")
        for other in registry:
            if other.record.driver == "bridge" and other.record.link == link:
                raise errors.PermissionDenied(
                    f"network {record.id} ({link}): conflicts with network {other.id} ({link}): "
                    "networks have same bridge name"
                )
        for name in (ICC, MASQUERADE):
            _boolean(record.options, name)
        mtu = record.options.get(MTU, "")
        if mtu and not (mtu.isascii() and mtu.isdigit()):
            raise errors.InvalidArgument(f'failed to parse {MTU} value: "{mtu}"')
        record.link, record.link_is_ours = link, True

    async def bring_up(self, network: Network) -> None:
        """The link, its addresses, the rules. OSError, ServerError."""
        plan = BridgePlan(
            name=network.record.link,
            addresses=network.gateways(),
            mtu=self.mtu(network),
            ipv6=network.record.enable_ipv6,
            route_localnet=not self._settings.userland_proxy,
            filtered=not (self._settings.userland_proxy and self.communicates(network)),
        )
        if plan.ipv6 and self._settings.ip_forward:
            await self._kernel.run(kernel.forward, 6)
        await self._kernel.run(self._kernel.make_bridge, plan)
        for version, firewall in self._firewalls.items():
            wanted = list(self.rules(network, version))
            if wanted:
                firewall.expect(wanted)
                await firewall.ensure()

    async def take_down(self, network: Network) -> None:
        """Errors as `bring_up`; the link goes only if it is ours."""
        for version, firewall in self._firewalls.items():
            await firewall.change(remove=self.rules(network, version))
        if network.record.link_is_ours:
            await self._kernel.run(self._kernel.remove_link, network.record.link)

    def rules(self, network: Network, version: int) -> Iterator[rules.Rule]:
        options = network.record.options
        subnets = network.subnets(version)
        if not subnets:
            return
        yield from rules.bridge(
            rules.BridgeFacts(
                link=network.record.link,
                subnets=subnets,
                internal=network.record.internal,
                masquerade=_is_on(options.get(MASQUERADE, "true")),
                communicate=self.communicates(network),
                hairpin=not self._settings.userland_proxy,
                source=options.get(HOST_IPV4, "") if version == 4 else "",
            )
        )

    def communicates(self, network: Network) -> bool:
        """Whether its containers may talk to each other unasked."""
        return _is_on(network.record.options.get(ICC, "true"))

    async def allow(self, network: Network, endpoint: Endpoint, on: bool) -> None:
        """The links of an endpoint, where `communicates` is false. ServerError; twice is once."""
        wanted = self._links(network, endpoint)
        firewall = self._firewalls.get(4)
        if firewall is not None:
            await firewall.change(add=wanted if on else (), remove=() if on else wanted)

    def expect_links(self, network: Network, endpoint: Endpoint) -> None:
        """After a restart: they are there already."""
        firewall = self._firewalls.get(4)
        if firewall is not None:
            firewall.expect(self._links(network, endpoint))

    @staticmethod
    def _links(network: Network, endpoint: Endpoint) -> list[Rule]:
        return [rule for each in endpoint.allowed for rule in rules.linked(network.record.link, each)]

    def attachment(self, network: Network, endpoint: Endpoint, sandbox: Sandbox) -> Attachment | None:
        """None where the driver puts nothing into the namespace."""
        if network.record.driver != "bridge":
            return None
        return Attachment(
            endpoint,
            sandbox.path,
            bridge=network.record.link,
            mtu=self.mtu(network),
            hairpin=not self._settings.userland_proxy,
        )

    @staticmethod
    def mtu(network: Network) -> int:
        """0: the kernel's choice."""
        return int(network.record.options.get(MTU, "") or 0)


def _boolean(options: dict[str, str], name: str) -> None:
    text = options.get(name, "true")
    if text.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise errors.InvalidArgument(f'failed to parse {name} value: "{text}"')


def _word(value: bool) -> str:
    return "true" if value else "false"


def _is_on(text: str) -> bool:
    return text.lower() in ("1", "t", "true")
