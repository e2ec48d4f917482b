"""The mounts of a container, in the order in which the runtime makes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from longshore.api.errors import InvalidArgument
from longshore.client.spec import PROPAGATIONS
from longshore.dockerd.records import Container, HostConfig, MountPoint
from longshore.dockerd.spec import security, shm, subpaths, tmpfs
from longshore.dockerd.spec.namespaces import ipc_mode
from longshore.dockerd.spec.process import INIT_TARGET, init_path, wants_init
from longshore.dockerd.spec.settings import Place

Mount = dict[str, Any]

# Files that the network part writes; never those of a user's own mount at the place.
_STAYS_WRITABLE: Final = frozenset(("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"))


def _mount(destination: str, type: str, source: str, *options: str) -> Mount:
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


def base() -> list[Mount]:
    """What every container has but /dev/shm."""
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", *pts),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    ]


def make(container: Container, place: Place) -> list[Mount]:
    """Defaults, then docker-init, the user's and the network's files; a user's mount replaces a default one."""
    host = container.host_config
    users = [_of_point(point, subpaths.source(container, point)) for point in container.mounts]
    users += [tmpfs.mount(target, options) for target, options in (host.tmpfs or {}).items()]
    taken = {mount["destination"] for mount in users}
    defaults = [*base(), *shm.mounts(container, place)]
    ours = [mount for mount in defaults if not _covered(mount["destination"], taken)]
    if host.readonly_rootfs:
        ours = [_readonly(mount) for mount in ours]
    options = security.parse(host.security_opt or (), place.settings)
    kinds = {"sysfs", "cgroup"} if host.privileged else {"cgroup"} if options.writable_cgroups else set()
    ours = [_writable(mount) if mount["type"] in kinds else mount for mount in ours]
    files = [_file(target, path, host) for target, path in place.network.files.items() if target not in taken]
    return [*ours, *_init(container, place), *sorted(users + files, key=_depth)]


def _depth(mount: Mount) -> int:
    """Outer places before inner ones; the sort keeps the order of equals."""
    return len([part for part in mount["destination"].split("/") if part])


def _covered(destination: str, taken: Iterable[str]) -> bool:
    """Also what lies below a user's own /dev is the user's."""
    return any(
        destination == other or (other == "/dev" and destination.startswith("/dev/")) for other in taken
    )


def _readonly(mount: Mount) -> Mount:
    if mount["destination"] in _STAYS_WRITABLE or "ro" in mount["options"]:
        return mount
    return mount | {"options": [*mount["options"], "ro"]}


def _writable(mount: Mount) -> Mount:
    return mount | {"options": [option for option in mount["options"] if option != "ro"]}


def _init(container: Container, place: Place) -> list[Mount]:
    if not wants_init(container.host_config, place.settings):
        return []
    return [_mount(INIT_TARGET, "bind", init_path(place.settings), "bind", "ro")]


def _file(target: str, path: str, host: HostConfig) -> Mount:
    readonly = ("ro",) if host.readonly_rootfs else ()
    return _mount(target, "bind", path, "rbind", *readonly, "rprivate")


def _of_point(point: MountPoint, source: str) -> Mount:
    if point.type == "tmpfs":
        return tmpfs.of_spec(point)
    return _mount(point.target, "bind", source, *_bind_options(point))


def _bind_options(point: MountPoint) -> list[str]:
    wishes = point.spec.bind_options if point.spec else None
    options = ["bind" if wishes and wishes.non_recursive else "rbind"]
    if not point.writable:
        options.append("ro")
        if wishes and wishes.read_only_force_recursive:
            options.append("rro")
    if point.propagation:
        options.append(point.propagation)
    return options


def root_propagation(points: Iterable[MountPoint]) -> str:
    """What the root must be for its binds to propagate: shared beats slave; "" is the runtime's default."""
    asked = {point.propagation for point in points}
    if unknown := asked - PROPAGATIONS - {""}:
        raise InvalidArgument(f"invalid mount config: invalid propagation mode: {unknown.pop()}")
    if asked & {"shared", "rshared"}:
        return "shared"
    return "rslave" if asked & {"slave", "rslave"} else ""


def ipc_is_private(container: Container, place: Place) -> bool:
    return ipc_mode(container.host_config, place.settings) in ("private", "none")
