"""Removing: the record first, which decides; whatever else is left then is rubbish that a start of dockerd sweeps."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from longshore.api.errors import NotFound
from longshore.dockerd.backend import places
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.errors import Conflict

log = structlog.get_logger("dockerd.remove")


class Removal:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def check(self, live: Live, force: bool) -> None:
        """Raises Conflict."""
        state = live.record.state
        if state.removing:
            raise Conflict(f"removal of container {live.record.name} is already in progress")
        if force or not live.alive:
            return
        kind = state.status if state.status != "restarting" else "running"
        advice = {
            "running": "Stop the container before attempting removal or force remove",
            "paused": "Unpause and then stop the container before attempting removal or force remove",
        }
        raise Conflict(f"You cannot remove a {kind} container {live.id}. {advice[kind]}")

    async def remove(self, live: Live, volumes: bool = False) -> None:
        """With the lock held, and nothing running. `volumes`: the anonymous ones too."""
        parts = self._parts
        live.record.state.removing = True
        live.forget_tasks()
        live.end_attaching()
        try:
            if live.record.host_config.auto_remove:
                # Whichever of the two a crash leaves undone, the next start does: no need to wait for one first.
                await asyncio.gather(parts.registry.delete(live), self.sweep(live, volumes))
            else:
                await parts.registry.delete(live)
                await self.sweep(live, volumes)
        except BaseException:
            live.record.state.removing = False
            raise
        parts.registry.drop(live)
        parts.publish(live, "destroy")
        live.stopped.tell(live.outcome())
        live.removed.tell(live.outcome())

    async def sweep(self, live: Live, volumes: bool) -> None:
        """Everything beside the record. What fails is logged and left for the next start."""
        work = [
            self._drop_snapshot(live),
            self._parts.networks.leave(live.record),
            self._drop_files(live),
            self._drop_volumes(live, volumes),
        ]
        for result in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("a part of the container could not be removed", id=live.id, error=str(result))

    async def _drop_snapshot(self, live: Live) -> None:
        with suppress(NotFound):
            await self._parts.snapshots(live).remove(live.id)

    async def _drop_files(self, live: Live) -> None:
        await self._parts.logs.remove(live.record)
        await asyncio.to_thread(places.remove_folder, live.record.folder)

    async def _drop_volumes(self, live: Live, remove: bool) -> None:
        volumes = self._parts.volumes
        for mount in live.record.mounts:
            if not mount.name:
                continue
            await volumes.release(mount.name, live.id)
            if remove and mount.anonymous:
                with suppress(Conflict, NotFound):
                    await volumes.remove(mount.name)
