"""Published ports of an endpoint as a whole: sockets, rules and proxies come and go together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from longshore.api import errors
from longshore.dockerd.ends import Ends
from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import conntrack, ports, rules
from longshore.dockerd.network.bridge import HOST_BINDING
from longshore.dockerd.network.ports import Ports
from longshore.dockerd.network.proxies import Proxies

if TYPE_CHECKING:
    from longshore.dockerd.network.firewall import Firewall
    from longshore.dockerd.network.records import Endpoint, Mapping
    from longshore.dockerd.network.registry import Network
    from longshore.dockerd.network.settings import Settings
    from longshore.dockerd.records import Container
    from longshore.zygote.client import Zygote

log = structlog.get_logger(__name__)

_AGAIN_SECONDS: Final = 1.0
"""Before a proxy is replaced whose predecessor was already replaced."""


class Publishing:
    """`publish` and `withdraw` for the endpoint that a container reaches the world by."""

    def __init__(self, settings: Settings, firewalls: dict[int, Firewall], zygote: Zygote) -> None:
        self._settings, self._firewalls = settings, firewalls
        self._ports = Ports()
        self._proxies = Proxies(zygote, f"{settings.exec_root}/network", settings.userland_proxy_path)
        # Sockets that only keep a port from others, where no proxy does.
        self._held: dict[Mapping, socket.socket] = {}
        self._ends = Ends()
        self._replacing: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Proxies go on; they aren't watched any more."""
        self._ends.close()
        for task in list(self._replacing.values()):
            await _over(task)

    async def publish(
        self, container: Container, network: Network, endpoint: Endpoint, write: Callable[[], None]
    ) -> None:
        """Fills the endpoint's mappings and proxies in and calls `write` before each step that `withdraw` must know
        of. Raises ServerError with the original's prefix; `withdraw` then undoes what there is."""
        try:
            await self._publish(container, network, endpoint, write)
        except errors.InvalidArgument:
            raise
        except errors.Error as error:
            raise ServerError(
                f"driver failed programming external connectivity on endpoint {container.name} "
                f"({endpoint.id}): {error.message}"
            ) from error

    async def _publish(
        self, container: Container, network: Network, endpoint: Endpoint, write: Callable[[], None]
    ) -> None:
        default_ip = network.record.options.get(HOST_BINDING) or self._settings.ip
        targets = {
            version: str(interface.ip) for version in (4, 6) if (interface := endpoint.address(version))
        }
        ipv6 = ports.host_has_ipv6()
        bound: list[ports.Bound] = []
        try:
            for request in ports.requests(container):
                bound += self._ports.bind(request, targets, default_ip, ipv6)
        except BaseException:
            for each in bound:
                each.holder.close()
                self._ports.release(each.mapping)
            raise
        if not bound:
            return
        endpoint.mappings = [each.mapping for each in bound]
        write()
        await _all(self._start_proxies(endpoint, bound), self._open(network, endpoint))
        write()
        self._watch(endpoint, write)
        await self._forget_flows(endpoint.mappings)

    def _watch(self, endpoint: Endpoint, write: Callable[[], None], pause: float = 0) -> None:
        for proxy in endpoint.proxies:
            self._ends.expect(proxy.pid, proxy.pid, lambda: self._lost(endpoint, write, pause))

    def _lost(self, endpoint: Endpoint, write: Callable[[], None], pause: float) -> None:
        """A proxy was killed. One task replaces all that are gone."""
        if endpoint.proxies and endpoint.id not in self._replacing:
            self._replacing[endpoint.id] = asyncio.ensure_future(self._replace(endpoint, write, pause))

    async def _replace(self, endpoint: Endpoint, write: Callable[[], None], pause: float) -> None:
        await asyncio.sleep(pause)
        try:
            await self._start_missing(endpoint)
            write()
        except (OSError, errors.Error) as error:
            log.error("a killed docker-proxy can't be replaced", endpoint=endpoint.id, error=str(error))
        finally:
            del self._replacing[
                endpoint.id
            ]  # before we watch: one that has died meanwhile is told of at once
        self._watch(endpoint, write, _AGAIN_SECONDS)

    async def _start_missing(self, endpoint: Endpoint) -> None:
        alive = [proxy for proxy in endpoint.proxies if self._proxies.is_alive(proxy)]
        served = {proxy.mapping for proxy in alive}
        missing = [mapping for mapping in endpoint.mappings if mapping not in served]
        if missing and endpoint.proxies:
            log.warning("a docker-proxy was killed: another one takes its port", ports=len(missing))
        endpoint.proxies = alive
        bound: list[ports.Bound] = []
        try:
            for mapping in missing:
                bound.append(ports.Bound(mapping, ports.listen(mapping)))
        except BaseException:
            for each in bound:
                each.holder.close()
            raise
        await self._start_proxies(endpoint, bound)

    @staticmethod
    async def _forget_flows(mappings: Sequence[Mapping]) -> None:
        ports = {each.host_port for each in mappings if each.protocol == "udp"}
        if not ports:
            return
        try:
            await asyncio.to_thread(conntrack.forget_udp, ports)
        except OSError as error:
            log.warning("flows of UDP ports can't be forgotten", error=str(error))

    async def _start_proxies(self, endpoint: Endpoint, bound: list[ports.Bound]) -> None:
        if not self._settings.userland_proxy:
            self._held.update({each.mapping: each.holder for each in bound})
            return
        await self._proxies.start(bound, endpoint.proxies)

    async def _open(self, network: Network, endpoint: Endpoint) -> None:
        for version, firewall in self._firewalls.items():
            await firewall.change(add=self._rules(network, endpoint, version))

    def _rules(self, network: Network, endpoint: Endpoint, version: int) -> Iterator[rules.Rule]:
        hairpin = not self._settings.userland_proxy
        for mapping in endpoint.mappings:
            if rules.is_native(mapping, version):
                yield from rules.published(mapping, network.record.link, hairpin)

    async def withdraw(self, network: Network, endpoint: Endpoint) -> None:
        """Undo `publish`, also one of a dockerd that died. ServerError; twice is once."""
        if not endpoint.mappings:
            return
        while task := self._replacing.get(endpoint.id):
            await _over(task)
        for proxy in endpoint.proxies:
            self._ends.forget(proxy.pid)
        mappings, proxies = endpoint.mappings, endpoint.proxies
        changes = [
            firewall.change(remove=list(self._rules(network, endpoint, version)))
            for version, firewall in self._firewalls.items()
        ]
        endpoint.proxies = []
        try:
            await _all(self._proxies.stop(proxies), *changes)
            await self._forget_flows(mappings)
        finally:
            endpoint.mappings = []
            for mapping in mappings:
                holder = self._held.pop(mapping, None)
                if holder is not None:
                    holder.close()
                self._ports.release(mapping)

    async def end_strays(self, endpoints: Iterable[Endpoint]) -> None:
        """After a restart, when everything that is known was taken over or undone."""
        await self._proxies.end_strays(proxy for each in endpoints for proxy in each.proxies)

    async def take_over(self, network: Network, endpoint: Endpoint, write: Callable[[], None]) -> None:
        """After a restart: what runs goes on, what doesn't is started again."""
        if not endpoint.mappings:
            return
        for mapping in endpoint.mappings:
            self._ports.adopt(mapping)
        await self._start_missing(endpoint)
        self._watch(endpoint, write)
        for version, firewall in self._firewalls.items():
            firewall.expect(self._rules(network, endpoint, version))


async def _over(task: asyncio.Task[None]) -> None:
    """Not cancelled: what it has started is written down."""
    await asyncio.gather(task, return_exceptions=True)


async def _all(*work: object) -> None:
    """Every one to its end, then the first error."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)  # type: ignore[call-overload]
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
