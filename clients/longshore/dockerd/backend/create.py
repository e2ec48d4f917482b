"""From a body of create to a container that can be started."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, NamedTuple

from longshore.api.errors import Error, InvalidArgument, NotFound
from longshore.dockerd.archive import marks
from longshore.dockerd.backend import names, runtimes, signals
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.records import (
    Container,
    ContainerConfig,
    CreateBody,
    EndpointSettings,
    HostConfig,
    NetworkingConfig,
)
from longshore.dockerd.spec import links, merge, namespaces, points, validate
from longshore.dockerd.spec.settings import Settings

LABEL: Final = "io.longshore.dockerd/container"
"""On snapshots and on containerd's records: the container that they belong to."""
ROOT_LABEL: Final = "containerd.io/gc.root"
"""The collector keeps a container's snapshot although nothing refers to it while the container is stopped."""


class Created(NamedTuple):
    live: Live
    warnings: list[str]


class Creation:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = Settings.of(parts.config)

    async def create(self, body: CreateBody, name: str = "", image: ImageInfo | None = None) -> Created:
        """A durable container and its snapshot, or nothing at all.

        Raises InvalidArgument (a value), NotFound (the image), Conflict (the name).
        """
        parts = self._parts
        host = body.host_config or HostConfig()
        if host.console_size:
            host.console_size = [*host.console_size, 0][:2]
        if image is None and not body.image:
            raise InvalidArgument("no image was named for the container")
        if image is None:
            # Without a look at its layers, which are nearly always there: `_prepare` finds out.
            image = parts.images.info(await parts.images.find(body.image))
        config = merge.merge(_config(body), merge.image_config(image.config))
        warnings = validate.create(config, host, self._settings)
        namespaces.check(host, self._peer)
        links.check(host, self._peer)
        if config.stop_signal:
            signals.number(config.stop_signal)
        host.runtime = host.runtime or self._parts.config.default_runtime
        runtimes.find(self._parts.config, host.runtime)
        if (lender := self._lender(host)) is not None:
            host.network_mode = f"container:{lender.id}"
        record = self._record(body, config, host, image)
        with suppress(NotFound):  # a network that isn't there is the start's to complain about
            parts.networks.check(record)
        planned = points.plan(config, host, self._peer)
        async with AsyncExitStack() as undo:
            record.name = parts.registry.reserve(name, record.id)
            undo.callback(parts.registry.release, record.name, record.id)
            record.mounts = await points.resolve(planned, record.id, parts.volumes)
            undo.push_async_callback(self._drop_volumes, record)
            live = Live(record)
            async with live.lock:
                await self._make(live, image, undo)
            undo.pop_all()
        parts.publish(live, "create")
        return Created(live, warnings)

    def _peer(self, name: str) -> Container:
        return self._parts.registry.find(name).record

    def _lender(self, host: HostConfig) -> Container | None:
        """Whose network it shares. One that isn't there is the start's to complain about: NotFound of a create means
        the image, and makes clients pull it."""
        kind, _, name = host.network_mode.partition(":")
        try:
            return self._peer(name) if kind == "container" else None
        except NotFound:
            return None

    def _record(
        self, body: CreateBody, config: ContainerConfig, host: HostConfig, image: ImageInfo
    ) -> Container:
        id = names.new_id()
        path, args = merge.command(config)
        config.hostname = self._hostname(config, host, id)
        host.log_config = self._parts.logs.settle(host.log_config)
        return Container(
            id=id,
            name="",
            created_ns=time.time_ns(),
            config=config,
            host_config=host,
            image_id=image.id,
            image_ref=body.image,
            path=path,
            args=args,
            networks=wanted_networks(host, body.networking_config, config),
            folder=os.path.join(self._parts.config.data_root, "containers", id),
        )

    def _hostname(self, config: ContainerConfig, host: HostConfig, id: str) -> str:
        if config.hostname:
            return config.hostname
        if host.network_mode == "host":
            return os.uname().nodename
        lender = self._lender(host)
        return lender.config.hostname if lender is not None else id[:12]

    async def _make(self, live: Live, image: ImageInfo, undo: AsyncExitStack) -> None:
        """Snapshot and record are made at the same time: a crash leaves either alone, which `recover` removes."""
        parts = self._parts
        await asyncio.to_thread(os.makedirs, live.record.folder, 0o710, True)
        undo.callback(_remove_folder, live.record.folder)
        undo.push_async_callback(self._drop_snapshot, live)
        snapshot = asyncio.ensure_future(self._prepare(live, image))
        try:
            await parts.registry.add(live)
        except BaseException:
            await asyncio.gather(snapshot, return_exceptions=True)
            raise
        undo.push_async_callback(self._drop_record, live)
        await snapshot
        places = {mount.target: mount.name for mount in live.record.mounts if mount.copy_up and mount.name}
        if places:
            await parts.volumes.fill(live.id, live.mounts or (), places)

    async def _prepare(self, live: Live, image: ImageInfo) -> None:
        labels = {ROOT_LABEL: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), LABEL: live.id}
        snapshots = self._parts.snapshots(live)
        try:
            live.mounts = await snapshots.prepare(live.id, image.chain_id, labels)
        except NotFound:
            await self._parts.images.resolve(image.id)
            live.mounts = await snapshots.prepare(live.id, image.chain_id, labels)
        await asyncio.to_thread(marks.make, live.mounts)

    async def _drop_volumes(self, record: Container) -> None:
        for mount in record.mounts:
            if mount.name:
                await self._parts.volumes.release(mount.name, record.id)
                if mount.anonymous:
                    with suppress(Error):
                        await self._parts.volumes.remove(mount.name)

    async def _drop_snapshot(self, live: Live) -> None:
        with suppress(NotFound):
            await self._parts.snapshots(live).remove(live.id)

    async def _drop_record(self, live: Live) -> None:
        with suppress(Error):
            await self._parts.registry.delete(live)
        self._parts.registry.drop(live)


def _config(body: CreateBody) -> ContainerConfig:
    return ContainerConfig(**{name: getattr(body, name) for name in ContainerConfig.__struct_fields__})


def wanted_networks(
    host: HostConfig, networking: NetworkingConfig | None, config: ContainerConfig
) -> dict[str, EndpointSettings]:
    """What the container is to join: the networks that are listed, without a list that of its mode."""
    asked: dict[str, Any] = (networking.endpoints_config if networking else None) or {}
    mode = host.network_mode or "default"
    host.network_mode = mode
    if mode.startswith("container:") or config.network_disabled:
        return {}
    first = "bridge" if mode == "default" else mode
    wanted = {}
    for name, settings in (asked or {first: EndpointSettings()}).items():
        if settings is None:
            raise InvalidArgument(f"no EndpointSettings for {name}")
        wanted[first if name in (mode, "default") else name] = settings
    if config.mac_address and first in wanted and not wanted[first].mac_address:
        wanted[first].mac_address = config.mac_address
    return wanted


def _remove_folder(folder: str) -> None:
    with suppress(OSError):
        os.rmdir(folder)
