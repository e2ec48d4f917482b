"""`Networks`: what the rest of dockerd asks of networks.

A container's join is planned first (addresses, names, ports: `joining.py`),
the plan is written down, then carried out; whatever fails, the plan says what
to undo. Leaving, and what a killed dockerd left behind, is the same undoing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from longshore.api import errors
from longshore.dockerd.engine import NetworkPlace, NetworkSource
from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import files, ipam, joining, kernel, settings
from longshore.dockerd.network.bridge import Bridges
from longshore.dockerd.network.firewall import Firewall
from longshore.dockerd.network.kernel import Kernel
from longshore.dockerd.network.records import (
    KIND,
    Endpoint,
    NetworkRecord,
    PoolRecord,
    Sandbox,
    SandboxFiles,
)
from longshore.dockerd.network.registry import Network, Registry, new_id, now
from longshore.dockerd.records import EndpointSettings
from longshore.dockerd.state import Put

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.dockerd.events import Events
    from longshore.dockerd.records import Container
    from longshore.dockerd.state import State
    from longshore.zygote.client import Zygote

log = structlog.get_logger(__name__)


class Networks(NetworkSource):
    """`start`, then `restore` with what runs, then everything else; `close` at the end."""

    def __init__(self, state: State, events: Events, config: Config, zygote: Zygote) -> None:
        self._state, self._events, self._zygote = state, events, zygote
        self.settings = settings.of(config)
        self._kernel = Kernel()
        self._registry = Registry(ipam.Space(self.settings.pools))
        hairpin = not self.settings.userland_proxy
        self._firewalls = self._make_firewalls(hairpin)
        self._bridges = Bridges(self.settings, self._kernel, self._firewalls)
        self._files = SandboxFiles(f"{self.settings.exec_root}/network")
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, Container] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def _make_firewalls(self, hairpin: bool) -> dict[int, Firewall]:
        wanted = [
            version for version, on in ((4, self.settings.iptables), (6, self.settings.ip6tables)) if on
        ]
        return {version: Firewall(version, hairpin=hairpin) for version in wanted}

    # Life.

    async def start(self) -> None:
        """Bring the networks of the last life back: bridges, addresses, rules."""
        os.makedirs(f"{self.settings.exec_root}/netns", exist_ok=True)
        os.makedirs(f"{self.settings.exec_root}/network", exist_ok=True)
        for record in self._state.load(KIND, NetworkRecord).values():
            self._adopt(record)
        await self._make_predefined()
        await self._forward()
        for network in self._registry:
            try:
                await self._bring_up(network)
            except (OSError, errors.Error) as error:
                log.error("a network can't be brought up", network=network.name, error=str(error))

    async def _bring_up(self, network: Network) -> None:
        if network.record.driver == "bridge" and not network.record.config_only:
            await self._bridges.bring_up(network)

    def _adopt(self, record: NetworkRecord) -> None:
        network = Network(record)
        if record.driver == "bridge":
            for pool in network.pools:
                self._registry.space.reserve(pool.subnet)
        self._registry.add(network)

    async def _make_predefined(self) -> None:
        for name, driver in (("none", "null"), ("host", "host")):
            if self._registry.by_name(name) is None:
                await self._remember(NetworkRecord(id=new_id(), name=name, driver=driver, created_ns=now()))
        if self.settings.bridge != "none":
            await self._make_default_bridge()

    async def _make_default_bridge(self) -> None:
        found = self._registry.by_name("bridge")
        wanted = await self._bridges.default_record(found.record if found else None, self._registry.space)
        if found is not None and found.record == wanted:
            return
        if found is not None:
            self._registry.remove(found)
        await self._remember(wanted)

    async def _remember(self, record: NetworkRecord) -> None:
        await self._state.commit(Put(KIND, record.id, record))
        self._adopt(record)

    async def _forward(self) -> None:
        if not self.settings.ip_forward:
            return
        try:
            await self._kernel.run(kernel.forward, 4)
        except OSError as error:
            log.warning("the host can't be made to forward packets", error=str(error))

    async def restore(self, running: Sequence[Container]) -> None:
        """After `start`: these run and keep what they have; everything else of a last life is undone."""
        alive = {container.id: container for container in running}
        for sandbox in await asyncio.to_thread(self._files.load):
            container = alive.get(sandbox.container)
            if container is None:
                await self._undo(sandbox)
            else:
                await self._take_over(sandbox, container)

    async def _take_over(self, sandbox: Sandbox, container: Container) -> None:
        self._sandboxes[container.id] = sandbox
        self._containers[container.id] = container
        for network, endpoint in self._on(sandbox):
            network.adopt(endpoint.ipv4)
            network.adopt(endpoint.ipv6)
            network.endpoints[container.id] = (sandbox, endpoint)

    async def close(self) -> None:
        """What containers still use stays; without containers the host is left as it was found."""
        if not self._sandboxes:
            for firewall in self._firewalls.values():
                await self._quietly(firewall.clear())
        self._kernel.close()

    @staticmethod
    async def _quietly(work: object) -> None:
        try:
            await work  # type: ignore[misc]
        except (OSError, errors.Error) as error:
            log.warning("while cleaning up", error=str(error))

    # Join and leave.

    @asynccontextmanager
    async def _locked(self, container: str) -> AsyncIterator[None]:
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

    async def join(self, container: Container) -> NetworkPlace:
        """See `NetworkSource`. Joining twice is joining once."""
        async with self._locked(container.id):
            sandbox = self._sandboxes.get(container.id)
            if sandbox is None:
                sandbox = await self._join(container)
            return NetworkPlace(sandbox.path, dict(sandbox.files))

    async def _join(self, container: Container) -> Sandbox:
        sandbox = self._plan(container)
        joined = asyncio.ensure_future(self._carry_out(sandbox, container))
        try:
            await asyncio.shield(joined)
        except asyncio.CancelledError:
            await asyncio.wait([joined])
            await self._undo(sandbox)
            raise
        except BaseException as error:
            await self._undo(sandbox)
            if isinstance(error, OSError):
                raise ServerError(f"failed to set up container networking: {error}") from error
            raise
        for network, endpoint in self._on(sandbox):
            self._tell("connect", network, container.id)
            container.networks[network.name] = joining.joined(
                container.networks.get(network.name) or EndpointSettings(), network, endpoint
            )
        return sandbox

    def _plan(self, container: Container) -> Sandbox:
        mode = container.host_config.network_mode or "default"
        if mode.startswith("container:"):
            return self._shared(container, mode)
        sandbox = Sandbox(container=container.id, name=container.name, mode=mode)
        sandbox.files = {target: f"{container.folder}/{name}" for target, name in files.NAMES.items()}
        if mode != "host":
            sandbox.path = f"{self.settings.exec_root}/netns/{container.id}"
        try:
            for network in self._wanted(container):
                self._plan_endpoint(sandbox, container, network)
        except BaseException:
            self._free(sandbox)
            raise
        return sandbox

    def _wanted(self, container: Container) -> list[Network]:
        """The networks of its record (keyed by name or ID), the one of its mode first."""
        if container.config.network_disabled:
            return []
        mode = container.host_config.network_mode or "default"
        main = self._registry.find("bridge" if mode == "default" else mode)
        others = [self._registry.find(term) for term in sorted(container.networks) if term != "default"]
        found = {network.id: network for network in (main, *others)}
        for network in found.values():
            joining.rename(container.networks, network)
        return list(found.values())

    def _plan_endpoint(self, sandbox: Sandbox, container: Container, network: Network) -> Endpoint:
        wanted = container.networks.get(network.name) or EndpointSettings()
        endpoint = joining.plan(sandbox, container, network, wanted)
        sandbox.endpoints.append(endpoint)
        network.endpoints[container.id] = (sandbox, endpoint)
        return endpoint

    def _shared(self, container: Container, mode: str) -> Sandbox:
        other = self._sandboxes.get(mode.removeprefix("container:"))
        if other is None:
            raise errors.FailedPrecondition(
                f"cannot join network of a non running container: {mode.removeprefix('container:')}"
            )
        return Sandbox(
            container=container.id, name=container.name, mode=mode, path=other.path, files=other.files
        )

    async def _carry_out(self, sandbox: Sandbox, container: Container) -> None:
        shared = sandbox.mode.startswith("container:")
        await self._kernel.run(self._build, sandbox, [] if shared else self._texts(sandbox, container))
        self._sandboxes[container.id] = sandbox
        self._containers[container.id] = container

    def _build(self, sandbox: Sandbox, texts: list[tuple[str, str]]) -> None:
        """In the kernel's thread: everything that blocks, in one go."""
        self._files.write(sandbox)
        for path, text in texts:
            files.write(path, text)
        if not sandbox.path or sandbox.mode.startswith("container:"):
            return
        self._kernel.make_namespace(sandbox.path)
        for network, endpoint in self._on(sandbox):
            attachment = self._bridges.attachment(network, endpoint, sandbox)
            if attachment is not None:
                self._kernel.attach(attachment)
        self._kernel.set_gateways(sandbox.path, *joining.gateways(sandbox, self._registry))

    def _texts(self, sandbox: Sandbox, container: Container) -> list[tuple[str, str]]:
        host = sandbox.mode == "host"
        resolver = joining.resolver(container, self.settings, embedded=False, host=host)
        texts = {
            files.HOSTS: joining.hosts(container, sandbox, self._addresses_of_host(), host),
            files.HOSTNAME: f"{container.config.hostname or container.id[:12]}\n",
            files.RESOLV_CONF: files.resolv_conf(resolver),
        }
        return [(sandbox.files[target], text) for target, text in texts.items()]

    def _addresses_of_host(self) -> str:
        if self.settings.host_gateway:
            return self.settings.host_gateway
        bridge = self._registry.by_name("bridge")
        return bridge.gateway(4) if bridge else ""

    async def leave(self, container: Container) -> None:
        """See `NetworkSource`."""
        async with self._locked(container.id):
            sandbox = self._sandboxes.get(container.id)
            if sandbox is None:
                return
            networks = [network for network, _ in self._on(sandbox)]
            await asyncio.shield(self._undo(sandbox))
            for network in networks:
                self._tell("disconnect", network, container.id)
                asked = container.networks.get(network.name)
                if asked is not None:
                    container.networks[network.name] = joining.left(asked)
            container.ports = {}

    async def _undo(self, sandbox: Sandbox) -> None:
        await self._quietly(self._kernel.run(self._tear_down, sandbox))
        self._free(sandbox)
        self._sandboxes.pop(sandbox.container, None)
        self._containers.pop(sandbox.container, None)

    def _tear_down(self, sandbox: Sandbox) -> None:
        if sandbox.path and not sandbox.mode.startswith("container:"):
            for endpoint in sandbox.endpoints:
                if endpoint.interface and not endpoint.link:
                    self._kernel.detach(sandbox.path, endpoint)
            self._kernel.remove_namespace(sandbox.path)
            self._kernel.remove_links(each.link for each in sandbox.endpoints if each.link)
        self._files.remove(sandbox.container)

    def _free(self, sandbox: Sandbox) -> None:
        for network, endpoint in self._on(sandbox):
            network.release(endpoint.ipv4)
            network.release(endpoint.ipv6)
            network.endpoints.pop(sandbox.container, None)

    def _on(self, sandbox: Sandbox) -> list[tuple[Network, Endpoint]]:
        known = {network.id: network for network in self._registry}
        return [(known[each.network], each) for each in sandbox.endpoints if each.network in known]

    def _tell(self, action: str, network: Network, container: str = "") -> None:
        attributes: Mapping[str, str] = {"name": network.name, "type": network.record.driver}
        if container:
            attributes = {"container": container, **attributes}
        self._events.publish("network", action, network.id, attributes)


__all__ = ["Networks", "PoolRecord"]
