"""`Volumes`: makes, lends, mounts and removes them.

A volume has users (containers that were created with it, running or not),
which keep it from being removed, and, if its options name a device, mounters
(containers that run): the first of them mounts it, the last unmounts it.
Both are counted in memory and found again at the start from the containers'
records. On disk a volume is <data-root>/volumes/<name>/_data.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from longshore.api import errors
from longshore.dockerd.engine import VolumeSource
from longshore.dockerd.errors import Conflict, ServerError
from longshore.dockerd.records import Container
from longshore.dockerd.state import Delete, Put
from longshore.dockerd.volumes import documents, filters, options
from longshore.dockerd.volumes.documents import ANONYMOUS, DRIVER, Volume
from longshore.linux import mounts as kernel

if TYPE_CHECKING:
    from longshore.api.types.mount_pb2 import Mount
    from longshore.dockerd.config import Config
    from longshore.dockerd.events import Events
    from longshore.dockerd.state import State
    from longshore.zygote.client import Zygote

KIND: Final = "volumes"
_WORKER: Final = "longshore.dockerd.volumes.worker"
_RUNNING: Final = frozenset(("running", "paused", "restarting"))
# No volume can be called so: a removal begins by moving the volume's folder to such a name.
_REMOVED: Final = ".removed-"


class Usage(NamedTuple):
    """What a volume takes: bytes in its files (-1: unknown), and how many containers have it."""

    volume: Volume
    mountpoint: str
    size: int
    users: int


class Volumes(VolumeSource):
    """All volumes of this dockerd. The only driver is "local"; there are no plug-ins."""

    def __init__(self, state: State, events: Events, config: Config, zygote: Zygote) -> None:
        self._state, self._events, self._zygote = state, events, zygote
        self._root = os.path.join(config.data_root, "volumes")
        self._scratch = os.path.join(self._root, ".scratch")
        self._volumes: dict[str, Volume] = {}
        self._users: defaultdict[str, set[str]] = defaultdict(set)
        self._mounters: defaultdict[str, set[str]] = defaultdict(set)
        self._mounted: set[str] = set()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._pruning = False

    # -- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is recorded, adopt folders without a record, count the users again."""
        await asyncio.to_thread(_make_folders, self._root, self._scratch)
        recorded = self._state.load(KIND, Volume)
        found, removed = await asyncio.to_thread(_folders, self._root)
        self._volumes = {name: recorded.get(name) or _adopted(name, born) for name, born in found.items()}
        lost = [Delete(KIND, name) for name in recorded if name not in found]
        new = [Put(KIND, name, volume) for name, volume in self._volumes.items() if name not in recorded]
        if lost or new:
            await self._state.commit(*lost, *new)
        await self._delete(removed)
        self._mounted = await asyncio.to_thread(self._mounted_names)
        for container in self._state.load("containers", Container).values():
            self._count(container)

    async def close(self) -> None:
        """Nothing runs here; mounts stay, for the containers that run on."""

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        """One at a time for each name; a lock that nobody waits for is forgotten."""
        lock, _ = self._locks.get(name) or (asyncio.Lock(), 0)
        self._locks[name] = lock, self._locks.get(name, (lock, 0))[1] + 1
        try:
            async with lock:
                yield
        finally:
            _, waiting = self._locks.pop(name)
            if waiting > 1:
                self._locks[name] = lock, waiting - 1

    def _count(self, container: Container) -> None:
        for mount in container.mounts:
            if mount.name in self._volumes:
                self._users[mount.name].add(container.id)
                if container.state.status in _RUNNING:
                    self._mounters[mount.name].add(container.id)

    def _mounted_names(self) -> set[str]:
        with open("/proc/self/mountinfo", "rb") as file:
            points = {entry[3] for entry in kernel.parse_mountinfo(file.read())}
        return {name for name in self._volumes if os.path.realpath(self.path(name)) in points}

    # -- looking --------------------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        """Where the data of the volume lies, whether or not there is one. `name` must have been checked."""
        return os.path.join(self._root, name, "_data")

    def get(self, name: str) -> Volume:
        """Raises NotFound: "get NAME: no such volume"."""
        try:
            return self._volumes[name]
        except KeyError:
            raise errors.NotFound(f"get {name}: no such volume") from None

    def show(self, volume: Volume) -> dict[str, Any]:
        """The volume as the API describes it."""
        return documents.shown(volume, self.path(volume.name))

    def listing(self, wanted: Mapping[str, Sequence[str]] | None = None) -> list[Volume]:
        """By name; `wanted` are filters (dangling, driver, label, name). Raises InvalidArgument."""
        test = filters.listing(wanted or {}, self._used)
        return [volume for _, volume in sorted(self._volumes.items()) if test(volume)]

    async def usage(self) -> list[Usage]:
        """Of every volume without options (the data of the others lies elsewhere)."""
        volumes = [volume for volume in self.listing() if not volume.options]
        sizes = await self._measure([volume.name for volume in volumes])
        return [
            Usage(volume, self.path(volume.name), size, len(self._users.get(volume.name, ())))
            for volume, size in zip(volumes, sizes, strict=True)
        ]

    def _used(self, name: str) -> bool:
        return bool(self._users.get(name))

    async def _measure(self, names: Sequence[str]) -> list[int]:
        if not names:
            return []
        paths = [self.path(name) for name in names]
        sizes: list[int] = await self._zygote.call(f"{_WORKER}:measure", {"paths": paths})
        return sizes

    # -- making and removing --------------------------------------------------------------------------------

    async def create(
        self,
        name: str = "",
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        container: str = "",
    ) -> Volume:
        """The volume `name`, made if it isn't there; without a name an anonymous one. `container` becomes a user.

        Raises InvalidArgument (name, options), NotFound (driver).
        """
        if not name:
            name = secrets.token_hex(32)
            labels = {**(labels or {}), ANONYMOUS: ""}
        documents.check_name(name)
        async with self._locked(name):
            volume = self._volumes.get(name)
            _check_driver(name, driver)
            if volume is None:
                volume = await self._make(name, options, labels)
            if container:
                self._users[name].add(container)
            return volume

    async def _make(
        self, name: str, wanted: Mapping[str, str] | None, labels: Mapping[str, str] | None
    ) -> Volume:
        try:
            options.check(wanted)
        except errors.InvalidArgument as error:
            raise errors.InvalidArgument(f"create {name}: {error.message}") from None
        volume = Volume(
            name=name,
            labels=None if labels is None else dict(labels),
            options=None if wanted is None else dict(wanted),
            created_ns=time.time_ns(),
        )
        try:
            await asyncio.to_thread(_make_volume, self._root, name)
        except OSError as error:
            message = f"error while creating volume root path '{self._root}/{name}': {error.strerror}"
            raise ServerError(f"create {name}: {message}") from None
        await self._state.commit(Put(KIND, name, volume))
        self._volumes[name] = volume
        self._events.publish("volume", "create", name, {"driver": DRIVER})
        return volume

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Raises NotFound (not with `force`), and Conflict while containers have it."""
        if force and name not in self._volumes:
            return
        self.get(name)
        async with self._locked(name):
            volume = self.get(name)
            if users := sorted(self._users.get(name, ())):
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            await self._unmount(name)
            await self._remove(volume)

    async def _remove(self, volume: Volume) -> None:
        """Away by a rename, so that a crash leaves a volume or none, never half of one."""
        aside = f"{_REMOVED}{secrets.token_hex(8)}"
        name = volume.name
        await asyncio.to_thread(os.rename, f"{self._root}/{name}", f"{self._root}/{aside}")
        await self._state.commit(Delete(KIND, name))
        self._volumes.pop(name)
        self._users.pop(name, None)
        self._mounters.pop(name, None)
        self._events.publish("volume", "destroy", name, {"driver": volume.driver})
        await self._delete([aside])

    async def _delete(self, names: Sequence[str]) -> None:
        if names:
            await self._zygote.call(f"{_WORKER}:remove", {"directory": self._root, "names": list(names)})

    async def prune(self, wanted: Mapping[str, Sequence[str]]) -> tuple[list[str], int]:
        """Remove what no container has: names and bytes. Filters: label, label!, all. Raises Conflict if one runs."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        test = filters.prunable(wanted)
        self._pruning = True
        try:
            return await self._prune([name for name in sorted(self._volumes) if test(self._volumes[name])])
        finally:
            self._pruning = False

    async def _prune(self, names: Sequence[str]) -> tuple[list[str], int]:
        unused = [name for name in names if not self._used(name)]
        sizes = await self._measure(unused)
        removed: list[str] = []
        reclaimed = 0
        for name, size in zip(unused, sizes, strict=True):
            try:
                await self.remove(name)
            except (Conflict, errors.NotFound):
                continue
            removed.append(name)
            reclaimed += max(size, 0)
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    # -- lending --------------------------------------------------------------------------------------------

    async def use(
        self,
        name: str,
        container: str,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """See `VolumeSource`. `labels` are for a volume that is made now."""
        volume = await self.create(name, driver, options, labels, container=container)
        return self.path(volume.name)

    async def release(self, name: str, container: str) -> None:
        """The container is no user any more, nor a mounter."""
        await self.unmount(name, container)
        users = self._users.get(name)
        if users is not None:
            users.discard(container)

    async def mount(self, name: str, container: str) -> str:
        """Before the container starts: mount what the volume's options name. The path of the data.

        Once for each container, twice is once. Raises NotFound, and ServerError
        with the words of the failed mount.
        """
        self.get(name)
        async with self._locked(name):
            volume = self.get(name)
            found = options.device(volume.options)
            if found is not None and name not in self._mounted:
                await self._mount(name, found)
            self._mounters[name].add(container)
            return self.path(name)

    async def unmount(self, name: str, container: str) -> bool:
        """The container has stopped; False if it isn't there or wasn't mounted for it, which is fine."""
        if container not in self._mounters.get(name, ()):
            return False
        async with self._locked(name):
            self._mounters[name].discard(container)
            if not self._mounters[name]:
                await self._unmount(name)
        return True

    async def _mount(self, name: str, device: options.Device) -> None:
        path = self.path(name)
        try:
            found = await options.resolved(device)
            await asyncio.to_thread(kernel.mount_all, [found.mount], path)
        except OSError as error:
            flags = kernel.parse_options(device.mount.options)
            words = f"mount {device.source}:{path}, flags: {flags.flags:#x}"
            words += f", data: {flags.data}" if flags.data else ""
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            message = options.hidden(f"failed to mount local volume: {words}: {reason}", device)
            raise ServerError(f"error while mounting volume '{path}': {message}") from None
        self._mounted.add(name)

    async def _unmount(self, name: str) -> None:
        if name in self._mounted:
            await asyncio.to_thread(kernel.unmount_all, self.path(name))
            self._mounted.discard(name)

    # -- copy-up --------------------------------------------------------------------------------------------

    async def fill(
        self, container: str, mounts: Sequence[Mount], places: Mapping[str, str], *, rootfs: str = ""
    ) -> None:
        """Copy-up: fill the volumes of a container that are still empty with what its image has at their places.

        `mounts` shows the container's root (Snapshots.Mounts), in a worker's own
        namespace; or it is the directory `rootfs`. `places`: target -> volume.
        """
        arguments: dict[str, Any] = {
            "rootfs": rootfs,
            "mounts": [[each.type, each.source, list(each.options), each.target] for each in mounts],
            "scratch": self._scratch,
        }
        if any(options.device(self.get(name).options) for name in places.values()):
            # Nothing is mounted for what there is nothing to copy into.
            asked = {**arguments, "places": list(places)}
            present = await self._zygote.call(f"{_WORKER}:present", asked)
            places = {place: places[place] for place in present}
        for name in places.values():
            await self.mount(name, f"fill {container}")
        try:
            copies = [[place, self.path(name)] for place, name in places.items()]
            await self._zygote.call(f"{_WORKER}:fill", {**arguments, "copies": copies})
        finally:
            for name in places.values():
                await self.unmount(name, f"fill {container}")

    @asynccontextmanager
    async def populate(self, name: str, rootfs: str, target: str) -> AsyncIterator[None]:
        """See `VolumeSource`; `fill` is the same for a root that isn't mounted."""
        await self.fill("", (), {target: name}, rootfs=rootfs)
        yield


def _check_driver(name: str, driver: str) -> None:
    if driver not in ("", DRIVER):
        raise errors.NotFound(
            f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'
        )


def _make_folders(root: str, scratch: str) -> None:
    os.makedirs(scratch, 0o701, exist_ok=True)
    os.chmod(root, 0o701)


def _make_volume(root: str, name: str) -> None:
    folder = os.path.join(root, name)
    os.makedirs(folder, 0o701, exist_ok=True)
    data = os.path.join(folder, "_data")
    os.makedirs(data, exist_ok=True)
    os.chmod(data, 0o755)


def _folders(root: str) -> tuple[dict[str, int], list[str]]:
    """Name and birth (Unix ns) of each volume on disk, and what removals have left behind."""
    found: dict[str, int] = {}
    removed = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(_REMOVED):
                removed.append(entry.name)
            elif not entry.name.startswith(".") and os.path.isdir(os.path.join(entry.path, "_data")):
                found[entry.name] = entry.stat().st_ctime_ns
    return found, removed


def _adopted(name: str, born_ns: int) -> Volume:
    return Volume(name=name, created_ns=born_ns)
