"""`Networks`: what the rest of dockerd asks of networks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import structlog

from longshore.api import errors
from longshore.dockerd.engine import NetworkPlace, NetworkSource
from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import creating, ipam, joining, kernel, settings
from longshore.dockerd.network.documents import CreateBody
from longshore.dockerd.network.drivers import Drivers
from longshore.dockerd.network.firewall import Firewall
from longshore.dockerd.network.kernel import Kernel
from longshore.dockerd.network.publishing import Publishing
from longshore.dockerd.network.records import KIND, NetworkRecord
from longshore.dockerd.network.registry import PREDEFINED, Network, Registry, new_id, now
from longshore.dockerd.network.sandboxes import Sandboxes
from longshore.dockerd.records import EndpointSettings
from longshore.dockerd.state import Delete, Put

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.dockerd.events import Events
    from longshore.dockerd.records import Container
    from longshore.dockerd.state import State
    from longshore.zygote.client import Zygote

log = structlog.get_logger("dockerd.networks")


class Networks(NetworkSource):
    """`start`, then `restore` with what runs, then everything else; `close` at the end."""

    def __init__(self, state: State, events: Events, config: Config, zygote: Zygote) -> None:
        self._state, self._events = state, events
        self.settings = chosen = settings.of(config)
        self._kernel = Kernel()
        self._registry = Registry(ipam.Space(chosen.pools))
        self._firewalls = {
            version: Firewall(version, hairpin=not chosen.userland_proxy)
            for version, on in ((4, chosen.iptables), (6, chosen.iptables and chosen.ip6tables))
            if on
        }
        self._drivers = Drivers(chosen, self._kernel, self._firewalls)
        publishing = Publishing(chosen, self._firewalls, zygote)
        folder = f"{chosen.exec_root}/network"
        self._sandboxes = Sandboxes(chosen, self._kernel, self._registry, self._drivers, publishing, folder)

    # Life.

    async def start(self) -> None:
        """Bring the networks of the last life back: bridges, addresses, rules."""
        for folder in ("netns", "network"):
            os.makedirs(f"{self.settings.exec_root}/{folder}", exist_ok=True)
        for record in self._state.load(KIND, NetworkRecord).values():
            self._adopt(record)
        await self._make_predefined()
        if self.settings.ip_forward:
            await self._forward()
        for network in self._registry:
            await self._try_up(network)

    async def _try_up(self, network: Network) -> None:
        if network.record.config_only:
            return
        try:
            await self._drivers.of(network.record.driver).bring_up(network)
            network.trouble = ""
        except (OSError, errors.Error) as error:
            network.trouble = str(error)
            log.error("a network can't be brought up", network=network.name, error=str(error))

    def _adopt(self, record: NetworkRecord) -> Network:
        network = Network(record)
        if record.driver == "bridge":
            for pool in network.pools:
                self._registry.space.reserve(pool.subnet)
        self._registry.add(network)
        return network

    async def _make_predefined(self) -> None:
        for name, driver in (("none", "null"), ("host", "host")):
            if self._registry.by_name(name) is None:
                await self._remember(NetworkRecord(id=new_id(), name=name, driver=driver, created_ns=now()))
        if self.settings.bridge != "none":
            await self._make_default_bridge()

    async def _make_default_bridge(self) -> None:
        found = self._registry.by_name("bridge")
        last = found.record if found else None
        wanted = await self._drivers.bridges.default_record(last, self._registry.space)
        if wanted == last:
            return
        if found is not None:
            self._registry.remove(found)
        await self._remember(wanted)

    async def _remember(self, record: NetworkRecord) -> None:
        await self._state.commit(Put(KIND, record.id, record))
        self._adopt(record)

    async def _forward(self) -> None:
        try:
            changed = await self._kernel.run(kernel.forward, 4)
            if changed and 4 in self._firewalls:
                self._firewalls[4].close_forwarding()
        except OSError as error:
            log.warning("the host can't be made to forward packets", error=str(error))

    async def restore(self, running: Iterable[Container]) -> None:
        """After `start`: these run and keep what they have; everything else of a last life is undone."""
        await self._sandboxes.restore(running)
        for firewall in self._firewalls.values():
            try:
                await firewall.ensure()
            except ServerError as error:
                log.error("the packet filter can't be set up", error=error.message)

    async def close(self) -> None:
        """What containers still use stays; without containers the packet filter is left as it was found."""
        await self._sandboxes.close()
        if not self._sandboxes:
            for firewall in self._firewalls.values():
                try:
                    await firewall.clear()
                except ServerError as error:
                    log.warning("rules are left behind", error=error.message)
        self._kernel.close()

    # Containers.

    async def join(self, container: Container) -> NetworkPlace:
        """See `NetworkSource`. Joining twice is joining once."""
        async with self._sandboxes.locked(container.id):
            sandbox = self._sandboxes.get(container.id)
            if sandbox is None:
                await self._retry_troubled(container)
                sandbox = await self._sandboxes.join(container)
                for network, _ in self._sandboxes.on(sandbox):
                    self._tell("connect", network, container.id)
            return NetworkPlace(sandbox.path, dict(sandbox.files))

    async def _retry_troubled(self, container: Container) -> None:
        for network in self._registry:
            if network.trouble and (network.name in container.networks or network.is_default_bridge):
                await self._try_up(network)

    async def leave(self, container: Container) -> None:
        """See `NetworkSource`."""
        async with self._sandboxes.locked(container.id):
            for network in await self._sandboxes.leave(container):
                self._tell("disconnect", network, container.id)

    def sandbox_key(self, container: str) -> str:
        """Where the namespace of a container (by ID) is held; "" while it has none of its own."""
        sandbox = self._sandboxes.get(container)
        return sandbox.path if sandbox else ""

    def renamed(self, container: Container) -> None:
        """Its name in the record is another one now."""
        self._sandboxes.renamed(container.id, container.name)

    def check(self, container: Container) -> None:
        """At create: whether what is asked for can be. InvalidArgument, in the original's words.

        A network that isn't there is found out at start: to a client 404 at create means that the image is missing.
        """
        mode = container.host_config.network_mode or "default"
        if mode.startswith("container:"):
            return
        for term, asked in container.networks.items():
            try:
                network = self.find("bridge" if term == "default" else term)
            except errors.NotFound:
                continue
            joining.check(network, asked)

    async def connect(self, container: Container, term: str, asked: EndpointSettings | None = None) -> None:
        """One network more for a container, which may run; its record is edited, whoever asks saves it."""
        async with self._sandboxes.locked(container.id):
            network, wanted = self.find(term), asked or EndpointSettings()
            joining.check(network, wanted)
            self._check_together(container, network)
            wanted.network_id = network.id
            before = container.networks.get(network.name)
            container.networks[network.name] = wanted
            if self._sandboxes.get(container.id) is not None:
                try:
                    await self._sandboxes.connect(container, network)
                except BaseException:
                    _put_back(container, network.name, before)
                    raise
                self._tell("connect", network, container.id)

    def _check_together(self, container: Container, network: Network) -> None:
        mode = container.host_config.network_mode
        if network.name == "host" and mode != "host":
            raise errors.InvalidArgument(
                "cannot connect container to host network - container must be created in host network mode"
            )
        if mode == "host" or mode.startswith("container:"):
            raise errors.InvalidArgument(
                "container sharing network namespace with another container or host cannot be connected to "
                "any other network"
            )
        others = {joining.network_name(term, self._registry) for term in container.networks}
        if (network.name == "none" and others) or "none" in others:
            raise errors.InvalidArgument(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
        if network.name in others and self._sandboxes.get(container.id) is not None:
            raise errors.PermissionDenied(
                f"endpoint with name {container.name} already exists in network {network.name}"
            )

    async def disconnect(self, container: Container | None, term: str, name: str = "") -> None:
        """One network less. Without a record (force), whatever calls itself `name` on the network."""
        network = self.find(term)
        if container is None:
            raise errors.NotFound(f"No such container: {name}")
        async with self._sandboxes.locked(container.id):
            if network.name == "host" and container.host_config.network_mode == "host":
                raise errors.InvalidArgument(
                    "cannot disconnect container from host network - container was created in host network mode"
                )
            names = {joining.network_name(key, self._registry): key for key in container.networks}
            if network.name not in names:
                raise ServerError(f"container {container.id} is not connected to network {network.name}")
            if self._sandboxes.get(container.id) is not None:
                await self._sandboxes.disconnect(container, network)
                self._tell("disconnect", network, container.id)
            container.networks.pop(names[network.name], None)

    # Networks.

    def __iter__(self) -> Iterable[Network]:
        return iter(self._registry)

    def all(self) -> list[Network]:
        return list(self._registry)

    def find(self, term: str) -> Network:
        """By ID, name, or prefix of the ID. NotFound: "network X not found"."""
        return self._registry.find(term)

    async def create(self, body: CreateBody) -> Network:
        """Conflict for a name that is taken; InvalidArgument, PermissionDenied, ServerError."""
        if body.name in (*PREDEFINED, "default"):
            raise errors.PermissionDenied(f"operation is not permitted on predefined {body.name} network ")
        self._registry.check_free(body.name)
        routes = [] if creating.has_subnet(body) else await self._kernel.run(self._kernel.routes)
        self._registry.check_free(body.name)
        record = creating.record(body, self._registry, self._drivers, routes)
        try:
            network = Network(record)
        except BaseException:
            creating.forget(record, self._registry)
            raise
        self._registry.add(network)
        try:
            await self._state.commit(Put(KIND, record.id, record))
            if not record.config_only:
                await self._drivers.of(record.driver).bring_up(network)
            if record.driver == "macvlan":  # now it is known whether the parent is ours
                await self._state.commit(Put(KIND, record.id, record))
        except BaseException as error:
            await self._destroy(network)
            if isinstance(error, OSError):
                raise ServerError(error.strerror or str(error)) from error
            raise
        self._tell("create", network)
        return network

    async def remove(self, term: str) -> None:
        """PermissionDenied while it is used, and for the predefined ones."""
        network = self.find(term)
        if network.is_predefined:
            raise errors.PermissionDenied(f"{network.name} is a pre-defined network and cannot be removed")
        if network.endpoints:
            raise errors.PermissionDenied(
                f"error while removing network: network {network.name} id {network.id} has active endpoints"
            )
        if network.record.config_only and any(
            other.record.config_from == network.name for other in self._registry
        ):
            raise errors.PermissionDenied(f'configuration network "{network.name}" is in use')
        await self._destroy(network)
        self._tell("destroy", network)

    async def _destroy(self, network: Network) -> None:
        """The rules and the link go first: a crash in between leaves a record by which they are found again."""
        network.trouble = "it is being removed"
        if not network.record.config_only:
            try:
                await self._drivers.of(network.record.driver).take_down(network)
            except OSError as error:
                log.warning("a link is left behind", network=network.name, error=str(error))
        await self._state.commit(Delete(KIND, network.id))
        self._registry.remove(network)

    def _tell(self, action: str, network: Network, container: str = "") -> None:
        attributes: Mapping[str, str] = {"name": network.name, "type": network.record.driver}
        if container:
            attributes = {"container": container, **attributes}
        self._events.publish("network", action, network.id, attributes)


def _put_back(container: Container, name: str, before: EndpointSettings | None) -> None:
    if before is None:
        container.networks.pop(name, None)
    else:
        container.networks[name] = before
