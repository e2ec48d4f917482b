"""What must be mounted on the host while a container runs: its volumes, and a /dev/shm that others may share."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from contextlib import suppress

from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.errors import ServerError
from longshore.dockerd.records import Container, MountPoint
from longshore.dockerd.spec import points, shm, subpaths
from longshore.dockerd.spec.settings import Settings
from longshore.linux import files, mounts


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
    for point in record.mounts:
        if subpath := subpaths.wanted(point):
            await asyncio.to_thread(_bind, point.source, subpath, subpaths.place(record, point))


async def release(parts: Parts, record: Container) -> None:
    """Undo `take`; twice is once."""
    if _has_any(record):
        await asyncio.to_thread(clear, record.folder)
    for point in record.mounts:
        if point.name and await parts.volumes.unmount(point.name, record.id):
            _tell(parts, record, point, "unmount")


def _has_any(record: Container) -> bool:
    """Most containers have none, and cost no thread."""
    return os.path.exists(f"{record.folder}/mounts")


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


def _bind(volume: str, subpath: str, place: str) -> None:
    """Links in the volume lead nowhere else: it is their root."""
    fds = []
    try:
        fds.append(os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        fds.append(files.open_in_root(fds[0], subpath, os.O_PATH))
        mounts.unmount_all(place)
        if stat.S_ISDIR(os.fstat(fds[1]).st_mode):
            os.makedirs(place, mode=0o700, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        mounts.mount(f"/proc/self/fd/{fds[1]}", place, None, mounts.MS_BIND | mounts.MS_REC)
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise ServerError(f"cannot access path {volume}/{subpath}: {why}") from error
    finally:
        for fd in fds:
            os.close(fd)


def remove_folder(folder: str) -> None:
    """A container's, with all that is in it. Raises OSError while something is mounted in there."""
    clear(folder)
    shutil.rmtree(folder, ignore_errors=True)


def clear(folder: str) -> None:
    """Unmount what `take` has mounted in a container's folder; nobody removes files there before. Raises OSError."""
    place = f"{folder}/mounts"
    with suppress(FileNotFoundError):
        for name in os.listdir(place):
            path = f"{place}/{name}"
            mounts.unmount_all(path)
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)
        os.rmdir(place)
