"""What the drivers of networks have in common, and which one serves which network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from longshore.api import errors
from longshore.dockerd.network.bridge import Bridges
from longshore.dockerd.network.macvlan import Macvlans

if TYPE_CHECKING:
    from longshore.dockerd.network.firewall import Firewall
    from longshore.dockerd.network.kernel import Attachment, Kernel
    from longshore.dockerd.network.records import Endpoint, NetworkRecord, Sandbox
    from longshore.dockerd.network.registry import Network, Registry
    from longshore.dockerd.network.settings import Settings


class Driver(Protocol):
    """`bring_up` and `take_down` may be repeated; both raise OSError and ServerError."""

    def check(self, record: NetworkRecord, registry: Registry) -> None:
        """Fill `record.link` in; InvalidArgument, PermissionDenied for options that can't be."""

    async def bring_up(self, network: Network) -> None: ...

    async def take_down(self, network: Network) -> None: ...

    def attachment(self, network: Network, endpoint: Endpoint, sandbox: Sandbox) -> Attachment | None:
        """What an endpoint's interface is to be; None where there is none."""


class Plain:
    """host and none: nothing to make."""

    def check(self, record: NetworkRecord, registry: Registry) -> None:
        raise errors.PermissionDenied(f'only one instance of "{record.driver}" network is allowed')

    async def bring_up(self, network: Network) -> None:
        return

    async def take_down(self, network: Network) -> None:
        return

    def attachment(self, network: Network, endpoint: Endpoint, sandbox: Sandbox) -> Attachment | None:
        return None


class Drivers:
    def __init__(self, settings: Settings, kernel: Kernel, firewalls: dict[int, Firewall]) -> None:
        self.bridges = Bridges(settings, kernel, firewalls)
        plain = Plain()
        self._by_name: dict[str, Driver] = {
            "bridge": self.bridges,
            "macvlan": Macvlans(kernel),
            "host": plain,
            "null": plain,
        }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def of(self, name: str) -> Driver:
        """NotFound for one that we don't have."""
        driver = self._by_name.get(name)
        if driver is None:
            raise errors.NotFound(f'plugin "{name}" not found')
        return driver

    def attachment(self, network: Network, endpoint: Endpoint, sandbox: Sandbox) -> Attachment | None:
        return self.of(network.record.driver).attachment(network, endpoint, sandbox)
