"""What the container's modules share: the daemon's other parts, and the containers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longshore.client import AsyncClient
    from longshore.client.snapshots import Snapshots
    from longshore.dockerd.backend.live import Live
    from longshore.dockerd.backend.registry import Registry
    from longshore.dockerd.config import Config
    from longshore.dockerd.events import Events
    from longshore.dockerd.images.store import Images
    from longshore.dockerd.logs.manager import Logs
    from longshore.dockerd.network.manager import Networks
    from longshore.dockerd.volumes.manager import Volumes
    from longshore.zygote.client import Zygote


@dataclass(frozen=True)
class Parts:
    client: AsyncClient
    config: Config
    events: Events
    zygote: Zygote
    images: Images
    volumes: Volumes
    networks: Networks
    logs: Logs
    registry: Registry

    def snapshots(self, live: Live) -> Snapshots:
        return self.client.snapshots(live.record.driver)

    def publish(self, live: Live, action: str, more: Mapping[str, str] | None = None) -> None:
        """An event about the container, with its labels, image and name."""
        record = live.record
        attributes = {
            **(record.config.labels or {}),
            "image": record.config.image,
            "name": record.name,
            **(more or {}),
        }
        self.events.publish("container", action, record.id, attributes)
