"""Containers on networks: joining, leaving, and changing while they run.

A join is planned (addresses, names), the plan is written down, then carried
out; whatever fails, the plan says what to undo. Leaving, and what a killed
dockerd left behind, is the same undoing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final

import structlog

from longshore.api import errors
from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import files, joining, ports
from longshore.dockerd.network.publishing import Publishing
from longshore.dockerd.network.records import Endpoint, Sandbox, SandboxFiles
from longshore.dockerd.network.resolver import Answers, Server, Upstream
from longshore.dockerd.records import EndpointSettings, named_links

if TYPE_CHECKING:
    from longshore.dockerd.network.drivers import Drivers
    from longshore.dockerd.network.kernel import Kernel
    from longshore.dockerd.network.registry import Network, Registry
    from longshore.dockerd.network.settings import Settings
    from longshore.dockerd.records import Container

log = structlog.get_logger(__name__)

_BORROWED: Final = "container:"
_SWEEP_AFTER: Final = 1.0
"""Seconds."""


class Sandboxes:
    """Every container that has a network now, by its ID."""

    def __init__(
        self,
        settings: Settings,
        kernel: Kernel,
        registry: Registry,
        drivers: Drivers,
        publishing: Publishing,
        folder: str,
    ) -> None:
        self._settings, self._kernel, self._registry = settings, kernel, registry
        self._drivers, self._publishing = drivers, publishing
        self._files = SandboxFiles(folder)
        self._by_container: dict[str, Sandbox] = {}
        self._servers: dict[str, Server] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._leftovers: list[str] = []
        self._sweeping: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._by_container)

    def get(self, container: str) -> Sandbox | None:
        return self._by_container.get(container)

    @asynccontextmanager
    async def locked(self, container: str) -> AsyncIterator[None]:
        """One change of a container at a time."""
        lock, users = self._locks.get(container, (asyncio.Lock(), 0))
        self._locks[container] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[container]
            if users == 1:
                del self._locks[container]
            else:
                self._locks[container] = (lock, users - 1)

    # Life.

    async def restore(self, running: Iterable[Container]) -> None:
        """These keep what they have; what is left of others is undone."""
        alive = {container.id: container for container in running}
        for sandbox in await asyncio.to_thread(self._files.load):
            container = alive.get(sandbox.container)
            try:
                if container is None:
                    await self.undo(sandbox)
                else:
                    await self._take_over(sandbox)
            except (OSError, errors.Error) as error:
                log.error("a container's network", container=sandbox.container, error=str(error))
        endpoints = [each for sandbox in self._by_container.values() for each in sandbox.endpoints]
        await self._publishing.end_strays(endpoints)

    async def _take_over(self, sandbox: Sandbox) -> None:
        self._by_container[sandbox.container] = sandbox
        for network, endpoint in self.on(sandbox):
            network.adopt(endpoint.ipv4)
            network.adopt(endpoint.ipv6)
            network.endpoints[sandbox.container] = (sandbox, endpoint)
        for network, endpoint in self.on(sandbox):
            await self._publishing.take_over(network, endpoint, lambda: self._files.write(sandbox))
            self._drivers.bridges.expect_links(network, endpoint)
        if sandbox.dns_ports != (0, 0):
            await self._serve_names(sandbox)
        self._files.write(sandbox)

    async def close(self) -> None:
        """Containers keep what they have, but for names: those come back with the next dockerd."""
        for server in self._servers.values():
            server.close()
        await self._publishing.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await self._sweep()

    def on(self, sandbox: Sandbox) -> list[tuple[Network, Endpoint]]:
        known = {network.id: network for network in self._registry}
        return [(known[each.network], each) for each in sandbox.endpoints if each.network in known]

    # Joining.

    async def join(self, container: Container) -> Sandbox:
        """With the lock held. Errors: those of planning, ServerError; all is undone then."""
        sandbox = self._plan(container)
        self._by_container[container.id] = sandbox
        joined = asyncio.ensure_future(self._carry_out(sandbox, container))
        try:
            await asyncio.shield(joined)
        except asyncio.CancelledError:
            await asyncio.gather(joined, return_exceptions=True)
            await self.undo(sandbox)
            raise
        except BaseException as error:
            await self.undo(sandbox)
            if isinstance(error, OSError):
                raise ServerError(f"failed to set up container networking: {error}") from error
            raise
        for network, endpoint in self.on(sandbox):
            joining.joined(container.networks[network.name], network, endpoint)
        container.ports = self._ports(container, sandbox)
        return sandbox

    def _plan(self, container: Container) -> Sandbox:
        mode = container.host_config.network_mode or "default"
        if mode.startswith(_BORROWED):
            return self._borrow(container, mode)
        sandbox = Sandbox(container=container.id, name=container.name, mode=mode)
        sandbox.files = {target: f"{container.folder}/{name}" for target, name in files.NAMES.items()}
        if mode != "host":
            sandbox.path = f"{self._settings.exec_root}/netns/{container.id[:12]}"
        try:
            for network in self._wanted(container):
                self._plan_endpoint(sandbox, container, network)
        except BaseException:
            self._free(sandbox)
            raise
        return sandbox

    def _borrow(self, container: Container, mode: str) -> Sandbox:
        term = mode.removeprefix(_BORROWED)
        other = self._by_container.get(term) or next(
            (each for each in self._by_container.values() if term in (each.name, each.container[:12])), None
        )
        if other is None:
            raise errors.FailedPrecondition(f"cannot join network of a non running container: {term}")
        return Sandbox(
            container=container.id, name=container.name, mode=mode, path=other.path, files=other.files
        )

    def _wanted(self, container: Container) -> list[Network]:
        """The networks of its record (keyed by name or ID), the one of its mode first."""
        if container.config.network_disabled:
            return []
        mode = container.host_config.network_mode or "default"
        main = "bridge" if mode == "default" else mode
        if not container.networks:
            container.networks[main] = EndpointSettings()
        found = {network.id: network for network in map(self._find, list(container.networks))}
        for network in found.values():
            joining.rename(container.networks, network)
        networks = sorted(found.values(), key=lambda each: each.name)
        return sorted(networks, key=lambda each: not joining.means(main, each))

    def _find(self, term: str) -> Network:
        return self._registry.find("bridge" if term == "default" else term)

    def _plan_endpoint(self, sandbox: Sandbox, container: Container, network: Network) -> Endpoint:
        if network.trouble:
            raise ServerError(f"network {network.name} can't be used: {network.trouble}")
        wanted = container.networks[network.name]
        joining.check(network, wanted)
        endpoint = joining.plan(sandbox, container, network, wanted)
        sandbox.endpoints.append(endpoint)
        network.endpoints[container.id] = (sandbox, endpoint)
        return endpoint

    async def _carry_out(self, sandbox: Sandbox, container: Container) -> None:
        if sandbox.mode.startswith(_BORROWED):
            self._files.write(sandbox)
            return
        self._plan_links(sandbox, container)
        self._files.write(sandbox)
        links = [self._drivers.bridges.allow(*each, on=True) for each in self.on(sandbox) if each[1].allowed]
        await together(self._build(sandbox, container), self._publish(sandbox, container), *links)

    async def _build(self, sandbox: Sandbox, container: Container) -> None:
        names = any(network.has_names for network, _ in self.on(sandbox))
        await self._kernel.run(self._make, sandbox, self._texts(sandbox, container, names))
        if names:
            await self._serve_names(sandbox)

    def _make(self, sandbox: Sandbox, texts: list[tuple[str, str]]) -> None:
        """In the kernel's thread: everything that blocks, in one go."""
        for path, text in texts:
            files.write(path, text)
        if not sandbox.path:
            return
        self._kernel.make_namespace(sandbox.path)
        attachments = [self._drivers.attachment(*each, sandbox) for each in self.on(sandbox)]
        for attachment in attachments:
            if attachment is not None:
                self._kernel.attach(attachment)
        self._kernel.set_gateways(sandbox.path, *joining.gateways(sandbox, self._registry), fresh=True)

    def _texts(self, sandbox: Sandbox, container: Container, names: bool) -> list[tuple[str, str]]:
        host = sandbox.mode == "host"
        resolver = joining.resolver(container, self._settings, embedded=names, host=host)
        sandbox.dns_asked = list(container.host_config.dns or ())
        texts = {
            files.HOSTS: joining.hosts(container, sandbox, self._address_of_host(), self._linked(container)),
            files.HOSTNAME: f"{container.config.hostname or container.id[:12]}\n",
            files.RESOLV_CONF: files.resolv_conf(resolver),
        }
        return [(sandbox.files[target], text) for target, text in texts.items()]

    def _address_of_host(self) -> str:
        if self._settings.host_gateway:
            return self._settings.host_gateway
        bridge = self._registry.by_name("bridge")
        return bridge.gateway(4) if bridge else ""

    # Links of the default bridge.

    def _linked(self, container: Container) -> list[tuple[str, str]]:
        """(address, names) of the containers that it links to, for its hosts file."""
        bridge = self._registry.by_name("bridge")
        if bridge is None or container.id not in bridge.endpoints:
            return []
        found = []
        for target, alias in named_links(container.host_config.links or ()):
            sandbox, endpoint = self._link_target(bridge, target, alias)
            own = [alias, sandbox.container[:12], sandbox.name]
            found.append((endpoint.ipv4.split("/")[0], " ".join(dict.fromkeys(own))))
        return found

    def _plan_links(self, sandbox: Sandbox, container: Container) -> None:
        """What has to be let through where the default bridge lets nothing."""
        bridge = self._registry.by_name("bridge")
        own = sandbox.endpoint(bridge.id) if bridge else None
        if bridge is None or own is None or self._drivers.bridges.communicates(bridge):
            return
        for target, alias in named_links(container.host_config.links or ()):
            _, other = self._link_target(bridge, target, alias)
            for number, protocol in map(ports.parse_port, other.offers):
                ends = (other.ipv4.split("/")[0], own.ipv4.split("/")[0])
                own.allowed.append((*ends, protocol, number))

    def _link_target(self, bridge: Network, target: str, alias: str) -> tuple[Sandbox, Endpoint]:
        for sandbox, endpoint in bridge.endpoints.values():
            if target == sandbox.name or sandbox.container.startswith(target):
                return sandbox, endpoint
        raise errors.FailedPrecondition(f"Cannot link to a non running container: /{target} AS {alias}")

    # Ports.

    def _publisher(self, sandbox: Sandbox) -> tuple[Network, Endpoint] | None:
        """The endpoint that ports are published by: the one that the way out leads through."""
        for network, endpoint in joining.ordered(sandbox, self._registry):
            if endpoint.gateway4 or endpoint.gateway6:
                return (network, endpoint) if network.record.driver == "bridge" else None
        return None

    async def _publish(self, sandbox: Sandbox, container: Container) -> None:
        found = self._publisher(sandbox)
        if found is not None:
            await self._publishing.publish(container, *found, lambda: self._files.write(sandbox))

    def _ports(self, container: Container, sandbox: Sandbox) -> dict[str, Any]:
        if self._publisher(sandbox) is None:
            return {}
        return ports.described(container, [each for one in sandbox.endpoints for each in one.mappings])

    # Names.

    async def _serve_names(self, sandbox: Sandbox) -> None:
        if sandbox.container in self._servers:
            return
        answers = Answers(
            lambda name: self._addresses(sandbox, name),
            lambda address: self._name_of(sandbox, address),
            lambda: self._upstreams(sandbox),
        )
        server = Server(self._kernel, sandbox.path, answers)
        self._servers[sandbox.container] = server
        sandbox.dns_ports = await server.open(sandbox.dns_ports)
        self._files.write(sandbox)

    def _addresses(self, sandbox: Sandbox, name: str) -> list[IPv4Address | IPv6Address] | None:
        for network, own in joining.ordered(sandbox, self._registry):
            if not network.has_names:
                continue
            wanted = own.links.get(name, name).lower()
            found = [
                ip_address(text.split("/")[0])
                for _, endpoint in network.endpoints.values()
                if _is_called(endpoint, network, wanted)
                for text in (endpoint.ipv4, endpoint.ipv6)
                if text
            ]
            if found:
                return found
        return None

    def _name_of(self, sandbox: Sandbox, address: IPv4Address | IPv6Address) -> str | None:
        for network, _ in self.on(sandbox):
            for other, endpoint in network.endpoints.values():
                interface = endpoint.address(address.version)
                if network.has_names and interface is not None and interface.ip == address:
                    return f"{other.name}.{network.name}"
        return None

    def _upstreams(self, sandbox: Sandbox) -> list[Upstream]:
        if not any(each.gateway4 or each.gateway6 for each in sandbox.endpoints):
            return []
        if sandbox.dns_asked:
            return [Upstream(address, inside=True) for address in sandbox.dns_asked]
        return [Upstream(address) for address in self._settings.dns or files.host_resolver().servers]

    def renamed(self, container: str, name: str) -> None:
        """The container is called so from now on, also by its neighbours."""
        sandbox = self._by_container.get(container)
        if sandbox is None:
            return
        for endpoint in sandbox.endpoints:
            endpoint.names = list(
                dict.fromkeys(name if each == sandbox.name else each for each in endpoint.names)
            )
        sandbox.name = name
        self._files.write(sandbox)

    # Leaving.

    async def leave(self, container: Container) -> list[Network]:
        """With the lock held; the networks that it was on."""
        sandbox = self._by_container.get(container.id)
        if sandbox is None:
            container.ports = {}
            return []
        endpoints = self.on(sandbox)
        await asyncio.shield(self.undo(sandbox))
        for network, endpoint in endpoints:
            asked = container.networks.get(network.name)
            if asked is not None:
                container.networks[network.name] = joining.left(asked, endpoint)
        container.ports = {}
        return [network for network, _ in endpoints]

    async def undo(self, sandbox: Sandbox) -> None:
        """Whatever of it there is; no error."""
        server = self._servers.pop(sandbox.container, None)
        if server is not None:
            server.close()
        if not sandbox.mode.startswith(_BORROWED):
            work = [self._withdraw(*each) for each in self.on(sandbox)]
            await asyncio.gather(*work, _quietly(self._kernel.run(self._tear_down, sandbox)))
        self._free(sandbox)
        self._by_container.pop(sandbox.container, None)
        self._files.remove(sandbox.container)
        self._leftovers += [each.link for each in sandbox.endpoints if each.link]
        if self._sweeping is None and self._leftovers:
            self._sweeping = asyncio.create_task(self._sweep_later())

    async def _withdraw(self, network: Network, endpoint: Endpoint) -> None:
        if endpoint.allowed:
            await _quietly(self._drivers.bridges.allow(network, endpoint, on=False))
        await _quietly(self._publishing.withdraw(network, endpoint))

    def _tear_down(self, sandbox: Sandbox) -> None:
        if not sandbox.path:
            return
        for endpoint in sandbox.endpoints:
            if endpoint.interface and not endpoint.link:
                self._kernel.detach(sandbox.path, endpoint)
        self._kernel.remove_namespace(sandbox.path)

    async def _sweep_later(self) -> None:
        """A link goes with its namespace, in the kernel's own time: removing it ourselves keeps everybody waiting
        for 20 ms. What is still there later was held by somebody (a process that entered the namespace)."""
        await asyncio.sleep(_SWEEP_AFTER)
        self._sweeping = None
        await self._sweep()

    async def _sweep(self) -> None:
        links, self._leftovers = self._leftovers, []
        await _quietly(self._kernel.run(self._kernel.remove_links, links))

    def _free(self, sandbox: Sandbox) -> None:
        for network, endpoint in self.on(sandbox):
            network.release(endpoint.ipv4)
            network.release(endpoint.ipv6)
            network.endpoints.pop(sandbox.container, None)

    # Changing while it runs.

    async def connect(self, container: Container, network: Network) -> None:
        """With the lock held: one network more, as container.networks[its name] asks. Undone on failure."""
        sandbox = self._by_container[container.id]
        endpoint = self._plan_endpoint(sandbox, container, network)
        before = self._publisher(sandbox)
        try:
            self._files.write(sandbox)
            await self._connect(sandbox, container, network, endpoint)
        except BaseException as error:
            await self._drop(sandbox, network, endpoint)
            if isinstance(error, OSError):
                raise ServerError(f"failed to set up container networking: {error}") from error
            raise
        joining.joined(container.networks[network.name], network, endpoint)
        await self._move_ports(sandbox, container, before)

    async def _connect(
        self, sandbox: Sandbox, container: Container, network: Network, endpoint: Endpoint
    ) -> None:
        await self._kernel.run(self._attach, sandbox, network, endpoint)
        if network.has_names and sandbox.container not in self._servers:
            await self._serve_names(sandbox)
            resolver = joining.resolver(container, self._settings, embedded=True, host=False)
            files.write(sandbox.files[files.RESOLV_CONF], files.resolv_conf(resolver))
        entry = joining.own_entries(container, endpoint)
        files.edit(sandbox.files[files.HOSTS], add=entry)

    def _attach(self, sandbox: Sandbox, network: Network, endpoint: Endpoint) -> None:
        attachment = self._drivers.attachment(network, endpoint, sandbox)
        if attachment is not None:
            self._kernel.attach(attachment)
        self._kernel.set_gateways(sandbox.path, *joining.gateways(sandbox, self._registry))

    async def disconnect(self, container: Container, network: Network) -> None:
        """With the lock held: it is off the network; no error."""
        sandbox = self._by_container[container.id]
        endpoint = sandbox.endpoint(network.id)
        if endpoint is None:
            return
        found = self._publisher(sandbox)
        moved = found is not None and found[1] is endpoint
        await self._drop(sandbox, network, endpoint)
        await _quietly(self._kernel.run(self._regain, sandbox))
        files.edit(sandbox.files[files.HOSTS], remove=joining.own_entries(container, endpoint))
        if moved:
            await self._publish(sandbox, container)
        container.ports = self._ports(container, sandbox)

    def _regain(self, sandbox: Sandbox) -> None:
        self._kernel.set_gateways(sandbox.path, *joining.gateways(sandbox, self._registry))

    async def _drop(self, sandbox: Sandbox, network: Network, endpoint: Endpoint) -> None:
        await self._withdraw(network, endpoint)
        await _quietly(self._kernel.run(self._kernel.detach, sandbox.path, endpoint))
        sandbox.endpoints.remove(endpoint)
        network.release(endpoint.ipv4)
        network.release(endpoint.ipv6)
        network.endpoints.pop(sandbox.container, None)
        self._files.write(sandbox)

    async def _move_ports(
        self, sandbox: Sandbox, container: Container, before: tuple[Network, Endpoint] | None
    ) -> None:
        """The way out may lead through another network now, and the published ports with it."""
        after = self._publisher(sandbox)
        same = before is not None and after is not None and before[1] is after[1]
        if not same:
            if before is not None:
                await self._withdraw(*before)
            await self._publish(sandbox, container)
        container.ports = self._ports(container, sandbox)


def _is_called(endpoint: Endpoint, network: Network, name: str) -> bool:
    own = [each.lower() for each in endpoint.names]
    return name in own or name.removesuffix(f".{network.name.lower()}") in own


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Every one to its end, then the first error."""
    outcomes: Sequence[object] = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _quietly(work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except (OSError, errors.Error) as error:
        log.warning("while cleaning up", error=str(error))
