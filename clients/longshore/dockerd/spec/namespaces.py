"""Which namespaces a container has of its own, joins, or shares with the host."""

from __future__ import annotations

from typing import Any, Final

from longshore.api.errors import InvalidArgument, NotFound
from longshore.client.spec import unified_cgroups
from longshore.dockerd.errors import Conflict
from longshore.dockerd.records import Container, HostConfig
from longshore.dockerd.spec.settings import Peer, Place, Settings

_IPC: Final = ("host", "private", "shareable", "none")


def make(container: Container, place: Place) -> list[dict[str, str]]:
    """Raises InvalidArgument for a mode, NotFound or Conflict where another container's namespace can't be joined."""
    host = container.host_config
    entries = [{"type": "mount"}]
    if host.network_mode != "host":
        path = place.network.path
        entries.append({"type": "network", **({"path": path} if path else {})})
    if host.uts_mode != "host":
        entries.append({"type": "uts"})
    entries += _shared("pid", host.pid_mode, place.peer)
    mode = ipc_mode(host, place.settings)
    if mode not in _IPC and not mode.startswith("container:"):
        raise InvalidArgument(f"Invalid IPC mode: {mode}")
    entries += _shared("ipc", mode, place.peer)
    if cgroupns_mode(host, place.settings) == "private":
        entries.append({"type": "cgroup"})
    return entries


def check(host: HostConfig, peer: Peer) -> None:
    """At create: whether the containers whose namespaces are to be joined are there. Raises InvalidArgument: of a
    create NotFound would mean the image."""
    for mode in (host.pid_mode, host.ipc_mode):
        if mode.startswith("container:"):
            try:
                peer(mode.partition(":")[2])
            except NotFound as error:
                raise InvalidArgument(error.message) from error


def ipc_mode(host: HostConfig, settings: Settings) -> str:
    return host.ipc_mode or settings.ipc_mode


def cgroupns_mode(host: HostConfig, settings: Settings) -> str:
    """A privileged container sees the host's by default on v1 only; v2's default is private for all."""
    default = settings.cgroupns_mode or ("private" if unified_cgroups() else "host")
    return host.cgroupns_mode or default


def _shared(kind: str, mode: str, peer: Peer) -> list[dict[str, str]]:
    if mode == "host":
        return []
    if not mode.startswith("container:"):
        return [{"type": kind}]
    return [{"type": kind, "path": f"/proc/{running(peer(mode.partition(':')[2])).state.pid}/ns/{kind}"}]


def running(container: Container) -> Container:
    """The container, if another may join it now. Raises Conflict."""
    if container.state.status == "restarting":
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    if not container.state.pid:
        raise Conflict(
            f"cannot join namespace of a non running container: container {container.id} is not running"
        )
    return container


def sysctls(container: Container, place: Place) -> dict[str, str]:
    """As asked; and in a network of its own anybody may ping and bind low ports, which CAP_NET_* was for."""
    host, config = container.host_config, container.config
    found: dict[str, Any] = {}
    if config.domainname and host.uts_mode != "host":
        found["kernel.domainname"] = config.domainname
    if host.network_mode != "host" and not host.network_mode.startswith("container:"):
        found["net.ipv4.ip_unprivileged_port_start"] = "0"
        found["net.ipv4.ping_group_range"] = "0 2147483647"
    return found | (host.sysctls or {})
