"""What must be mounted on the host while a container runs: its volumes, and a /dev/shm that others may share."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.errors import ServerError
from longshore.dockerd.records import Container, MountPoint
from longshore.dockerd.spec import points, shm
from longshore.dockerd.spec.settings import Settings
from longshore.linux import mounts


async def take(parts: Parts, record: Container, settings: Settings) -> None:
    """Twice is once. Raises what the volumes raise, InvalidArgument (a folder that can't be made), ServerError."""
    for point in record.mounts:
        if point.name:
            await parts.volumes.mount(point.name, record.id)
            _tell(parts, record, point, "mount")
    if any(point.type == "bind" for point in record.mounts):
        await asyncio.to_thread(points.prepare, record.mounts)
    if place := shm.shareable(record, settings):
        await asyncio.to_thread(_mount, *place)


async def release(parts: Parts, record: Container) -> None:
    """Undo `take`; twice is once."""
    if _has_shm(record):
        await asyncio.to_thread(_unmount, shm.path(record))
    for point in record.mounts:
        if point.name and await parts.volumes.unmount(point.name, record.id):
            _tell(parts, record, point, "unmount")


def _has_shm(record: Container) -> bool:
    """Most containers have none, and cost no thread."""
    return os.path.exists(shm.path(record))


def _tell(parts: Parts, record: Container, point: MountPoint, action: str) -> None:
    attributes = {"container": record.id, "driver": point.driver or "local"}
    if action == "mount":
        writable = "true" if point.writable else "false"
        attributes |= {"destination": point.target, "propagation": point.propagation, "read/write": writable}
    parts.events.publish("volume", action, point.name, attributes)


def _mount(path: str, options: str) -> None:
    os.makedirs(path, mode=0o700, exist_ok=True)
    if os.path.ismount(path):
        return
    flags = mounts.MS_NOEXEC | mounts.MS_NOSUID | mounts.MS_NODEV
    try:
        mounts.mount("shm", path, "tmpfs", flags, options)
    except OSError as error:
        raise ServerError(f"mounting shm tmpfs: {error}") from error


def _unmount(path: str) -> None:
    """The folder goes too."""
    mounts.unmount_all(path)
    with suppress(OSError):
        os.rmdir(path)
        os.rmdir(os.path.dirname(path))
