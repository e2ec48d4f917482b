"""What the daemon's configuration says about every container, and the container's neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from longshore.api.errors import NotFound
from longshore.dockerd.engine import NetworkPlace
from longshore.dockerd.records import Container, Ulimit

DEFAULT_SHM_SIZE: Final = 64 << 20
DEFAULT_CGROUP_PARENT: Final = "/docker"

Peer = Callable[[str], Container]
"""A container by name, ID or prefix of it; raises NotFound."""


def no_peers(name: str) -> Container:
    raise NotFound(f"No such container: {name}")


class Settings(NamedTuple):
    """Defaults of the daemon for what a HostConfig leaves open."""

    cgroup_parent: str = DEFAULT_CGROUP_PARENT
    init: bool = False
    init_path: str = ""
    """Of docker-init on the host; "" is a search along PATH."""
    ulimits: Mapping[str, Ulimit] = {}
    shm_size: int = DEFAULT_SHM_SIZE
    seccomp_profile: str = ""
    """Path of a profile, "unconfined", or "" for the one that is built in."""
    no_new_privileges: bool = False
    ipc_mode: str = "private"
    cgroupns_mode: str = ""
    """"" is private on cgroup v2 and host on v1."""

    @classmethod
    def of(cls, config: Any) -> Settings:
        """From the daemon's `Config`; what it doesn't know keeps the default."""
        found = {name: getattr(config, theirs, None) for name, theirs in _FROM_CONFIG.items()}
        return cls(**{name: value for name, value in found.items() if value})


_FROM_CONFIG: Final = {
    "cgroup_parent": "cgroup_parent",
    "init": "init",
    "init_path": "init_path",
    "ulimits": "default_ulimits",
    "shm_size": "default_shm_size",
    "seccomp_profile": "seccomp_profile",
    "no_new_privileges": "no_new_privileges",
    "ipc_mode": "default_ipc_mode",
    "cgroupns_mode": "default_cgroupns_mode",
}


class Place(NamedTuple):
    """Where a container is about to start."""

    network: NetworkPlace
    layers: Sequence[str] = ()
    """The directories behind its root file system, topmost first (`longshore.client.users.layers`): for user names."""
    peer: Peer = no_peers
    settings: Settings = Settings()
    environment: Sequence[str] = ()
    """Of legacy links."""
