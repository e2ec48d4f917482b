"""The macvlan driver: containers as neighbours of the host on its own link."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from longshore.api import errors
from longshore.dockerd.network.kernel import Attachment
from longshore.dockerd.network.netlink import MACVLAN_MODES

if TYPE_CHECKING:
    from longshore.dockerd.network.kernel import Kernel
    from longshore.dockerd.network.records import Endpoint, NetworkRecord, Sandbox
    from longshore.dockerd.network.registry import Network, Registry

PARENT: Final = "parent"
MODE: Final = "macvlan_mode"


class Macvlans:
    """Option "parent" is a link of the host, or "eth0.50" for a VLAN that is made on it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def check(self, record: NetworkRecord, registry: Registry) -> None:
        mode = record.options.get(MODE) or "bridge"
        if mode not in MACVLAN_MODES:
            raise errors.InvalidArgument(
                f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default"
            )
        parent = record.options.get(PARENT, "")
        record.link = parent or f"dm-{secrets.token_hex(6)}"
        record.link_is_ours = False
        for other in registry:
            shared = parent and other.record.driver == "macvlan" and other.record.link == parent
            if shared and "passthru" in (mode, other.record.options.get(MODE)):
                raise errors.PermissionDenied(
                    f"network {other.id} is already using parent interface {parent}"
                )

    async def bring_up(self, network: Network) -> None:
        made = await self._kernel.run(self._kernel.make_parent, network.record.link)
        network.record.link_is_ours = network.record.link_is_ours or made

    async def take_down(self, network: Network) -> None:
        if network.record.link_is_ours:
            await self._kernel.run(self._kernel.remove_link, network.record.link)

    def attachment(self, network: Network, endpoint: Endpoint, sandbox: Sandbox) -> Attachment | None:
        mode = network.record.options.get(MODE) or "bridge"
        return Attachment(endpoint, sandbox.path, parent=network.record.link, mode=mode)
