"""/dev/shm: a container's own, one that others may share, another's, the host's, or none."""

from __future__ import annotations

from typing import Any

from longshore.dockerd.records import Container
from longshore.dockerd.spec.namespaces import ipc_mode
from longshore.dockerd.spec.settings import Place, Settings

_OPTIONS = ("nosuid", "noexec", "nodev", "mode=1777")


def size(container: Container, settings: Settings) -> int:
    """In bytes."""
    return container.host_config.shm_size or settings.shm_size


def path(container: Container) -> str:
    """On the host, where a shareable one is mounted while its container runs (`shareable`)."""
    return f"{container.folder}/mounts/shm"


def shareable(container: Container, settings: Settings) -> tuple[str, str] | None:
    """(path, tmpfs options) of what must be mounted on the host before the start and unmounted after the end;
    None where nothing must."""
    if ipc_mode(container.host_config, settings) != "shareable":
        return None
    return path(container), f"mode=1777,size={size(container, settings)}"


def mounts(container: Container, place: Place) -> list[dict[str, Any]]:
    """None or one."""
    mode = ipc_mode(container.host_config, place.settings)
    if mode == "none":
        return []
    if mode == "host":
        return [_bind("/dev/shm")]
    if mode == "shareable":
        return [_bind(path(container))]
    if mode.startswith("container:"):
        return [_bind(_peers(place, mode))]
    options = [*_OPTIONS, f"size={size(container, place.settings)}"]
    return [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options}]


def _peers(place: Place, mode: str) -> str:
    peer = place.peer(mode.partition(":")[2])
    theirs = ipc_mode(peer.host_config, place.settings)
    return "/dev/shm" if theirs == "host" else path(peer)


def _bind(source: str) -> dict[str, Any]:
    return {"destination": "/dev/shm", "type": "bind", "source": source, "options": ["rbind", "rprivate"]}
