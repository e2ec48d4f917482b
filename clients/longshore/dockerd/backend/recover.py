"""When dockerd starts: what our records say, against what containerd has.

A record is the truth about what was promised, containerd about what runs.
What belongs to no record was being made or removed when we died, and goes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from longshore.api.errors import Error, NotFound
from longshore.api.types.task import task_pb2
from longshore.dockerd.backend import places, restart
from longshore.dockerd.backend.checks import Checks
from longshore.dockerd.backend.create import LABEL
from longshore.dockerd.backend.exits import Exit, Exits
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.monitor import Missed, exit_of
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.backend.remove import Removal
from longshore.dockerd.backend.start import forget_record

if TYPE_CHECKING:
    from longshore.client.snapshots import SnapshotInfo
    from longshore.client.tasks import State

log = structlog.get_logger("dockerd.recover")

AT_ONCE = 8
"""Containers that are started at the same time when dockerd starts."""


class Recovery:
    def __init__(
        self,
        parts: Parts,
        exits: Exits,
        removal: Removal,
        checks: Checks,
        come_up: Callable[[Live], Awaitable[None]],
    ) -> None:
        self._parts, self._exits, self._removal, self._checks = parts, exits, removal, checks
        self._come_up = come_up
        self._starting: set[asyncio.Task[None]] = set()

    async def run(self, found: Mapping[str, State], missed: Missed) -> None:
        """Returns when every record is true again; restart policies are followed in the background."""
        parts = self._parts
        tasks = dict(found)
        snapshots = {info.name async for info in self._walk_snapshots()}
        ended = []
        for live in parts.registry:
            task = tasks.pop(live.id, None)
            if live.id not in snapshots and not live.record.has_been_started:
                ended.append(self._half_made(live))
            elif live.has_process:
                ended.append(self._was_running(live, task, missed))
            else:
                ended.append(self._was_not_running(live, task))
        for result in await asyncio.gather(*ended, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a container could not be recovered", error=str(result))
        await self._sweep(snapshots)
        running = [live.record for live in parts.registry if live.has_process]
        await parts.networks.restore(running)
        await parts.logs.keep_only(record.id for record in running)
        await parts.logs.take_over(running)
        gate = asyncio.Semaphore(AT_ONCE)
        for live in parts.registry:
            if self._comes_back(live):
                task_ = asyncio.create_task(self._start(live, gate))
                self._starting.add(task_)
                task_.add_done_callback(self._starting.discard)

    async def close(self) -> None:
        tasks = list(self._starting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _walk_snapshots(self) -> AsyncIterator[SnapshotInfo]:
        return self._parts.client.snapshots("overlayfs").walk([f'labels."{LABEL}"'])

    async def _half_made(self, live: Live) -> None:
        """Its create was never answered."""
        async with live.lock:
            await self._removal.remove(live, volumes=True)

    async def _was_running(self, live: Live, task: State | None, missed: Missed) -> None:
        exit = exit_of(live, task, missed)
        created = task is not None and task.status == task_pb2.CREATED
        if created:  # we died between its creation and its start, which was never answered
            exit = Exit(live.record.state.pid, 255, 0)
            await self._drop_task(live.id)
        if exit is not None:
            await self._exits.ended(live, exit._replace(pid=live.record.state.pid))
            return
        assert task is not None
        paused = task.status == task_pb2.PAUSED
        if paused != (live.record.state.status == "paused"):
            draft = live.draft()
            draft.state.status = "paused" if paused else "running"
            await self._parts.registry.save(live, draft)
        self._checks.begin(live)

    async def _was_not_running(self, live: Live, task: State | None) -> None:
        """A task that was never acknowledged, or whose end was recorded just before we died."""
        if task is not None:
            await self._drop_task(live.id)
        await self._exits.clean(live)
        if live.record.state.status == "restarting" and not self._comes_back(live):
            draft = live.draft()
            draft.state.status = "exited"
            await self._parts.registry.save(live, draft)
        if live.record.host_config.auto_remove and live.record.has_been_started:
            async with live.lock:
                await self._removal.remove(live, volumes=True)

    async def _drop_task(self, id: str) -> None:
        with suppress(NotFound):
            await (await self._parts.client.tasks.get(id)).destroy()
        await forget_record(self._parts, id)

    async def _sweep(self, snapshots: set[str]) -> None:
        """Leavings of containers that have no record."""
        parts = self._parts
        for id in snapshots:
            if parts.registry.get(id) is None:
                log.info("removing what a container has left", id=id)
                with suppress(NotFound):
                    await (await parts.client.tasks.get(id)).destroy()
                await forget_record(parts, id)
                with suppress(Error):
                    await parts.client.snapshots("overlayfs").remove(id)
        for container in await parts.client.containers.list([f'labels."{LABEL}"']):
            if parts.registry.get(container.id) is None:
                await self._drop_task(container.id)
        await asyncio.to_thread(self._sweep_folders)

    def _sweep_folders(self) -> None:
        config = self._parts.config
        # The pipes of execs that a former dockerd served: nobody reads them any more.
        shutil.rmtree(self._parts.client.fifo_dir, ignore_errors=True)
        folder = os.path.join(config.data_root, "containers")
        with suppress(FileNotFoundError):
            for id in os.listdir(folder):
                if self._parts.registry.get(id) is None:
                    places.remove_folder(os.path.join(folder, id))

    # -- restart policies

    def _comes_back(self, live: Live) -> bool:
        record = live.record
        return (
            not live.has_process
            and record.has_been_started
            and restart.wanted_at_boot(
                record.host_config.restart_policy,
                record.state.exit_code,
                record.state.manually_stopped,
                record.restart_count,
            )
        )

    async def _start(self, live: Live, gate: asyncio.Semaphore) -> None:
        async with gate, live.lock:
            if live.has_process or live.record.state.removing:
                return
            try:
                await self._come_up(live)
            except Error as error:
                log.error("failed to start the container", id=live.id, error=str(error))
