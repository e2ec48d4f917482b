"""Looks at containers with restart labels every few seconds, and makes them what their labels say."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from typing import Final

import structlog

from longshore.api import errors
from longshore.api.events.container_pb2 import ContainerUpdate
from longshore.api.runtime.task.v3 import shim_pb2 as shim_api
from longshore.api.services.containers.v1.containers_pb2 import Container
from longshore.api.types.mount_pb2 import Mount as MountMessage
from longshore.api.types.task.task_pb2 import STOPPED
from longshore.containerd.gc import edges
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.restart import policy
from longshore.containerd.restart.policy import Deed, Task
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import Snapshotter
from longshore.containerd.tasks.manager import Manager
from longshore.containerd.tasks.runtimes import DEFAULT
from longshore.containerd.times import timestamp

log = structlog.get_logger("restart")

_STOP_SECONDS: Final = 10.0
_FRESH_SECONDS: Final = 5
# Only those that can have the label: with ten thousand containers it is a matter of a few milliseconds.
_LABELLED: Final = (
    "SELECT namespace, record FROM containers WHERE instr(record, CAST(? AS BLOB)) ORDER BY namespace, id"
)


class Monitor:
    """`interval` in seconds."""

    def __init__(
        self, store: Store, manager: Manager, snapshotters: Mapping[str, Snapshotter], interval: float
    ) -> None:
        self._store, self._manager = store, manager
        self._snapshotters, self._interval = snapshotters, interval
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # the next round is due whatever happened in this one
                log.error("could not look after containers", exc_info=error)
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """One round."""
        rows = await self._store.read_in_thread(
            lambda connection: connection.execute(_LABELLED, (policy.STATUS,)).fetchall()
        )
        for namespace, record in rows:
            container = Container.FromString(record)
            try:
                await self._look_at(namespace, container)
            except errors.Error as error:
                log.error("restart failed", namespace=namespace, id=container.id, error=error.message)

    async def _look_at(self, namespace: str, container: Container) -> None:
        task = await self._state(namespace, container.id)
        if task is None:
            if time.time() - container.created_at.seconds < _FRESH_SECONDS:
                return  # whoever made it is about to make its task
            task = Task(up=False)
        match policy.decide(container.labels, task):
            case Deed.START:
                # Shielded, here and below: a daemon that stops must not leave half a task.
                await asyncio.shield(self._start(namespace, container))
            case Deed.STOP:
                await asyncio.shield(self._stop(namespace, container.id))

    async def _state(self, namespace: str, id: str) -> Task | None:
        try:
            shim = await self._manager.get(namespace, id)
            state = await shim.call(
                "State",
                shim_api.StateRequest(id=id),
                shim_api.StateResponse,
                timeout=self._manager.timeouts.state,
            )
        except errors.NotFound:
            return None
        return Task(state.status != STOPPED, state.exit_status)

    async def _start(self, namespace: str, container: Container) -> None:
        count = policy.restarts(container.labels) + 1
        log.info("starting container again", namespace=namespace, id=container.id, count=count)
        try:
            await self._manager.delete(namespace, container.id)
        except errors.NotFound:
            pass
        await self._count(namespace, container.id, count)
        output = container.labels.get(policy.LOG_URI, "")
        request = shim_api.CreateTaskRequest(
            id=container.id,
            rootfs=await self._rootfs(namespace, container),
            stdout=output,
            stderr=output,
        )
        if container.runtime.HasField("options"):
            request.options.CopyFrom(container.runtime.options)
        runtime = container.runtime.name or DEFAULT
        await self._manager.create(namespace, runtime, container.spec.value, request)
        shim = await self._manager.get(namespace, container.id)
        started = await shim.call("Start", shim_api.StartRequest(id=container.id), shim_api.StartResponse)
        shim.ledger.started("", started.pid)

    async def _rootfs(self, namespace: str, container: Container) -> list[MountMessage]:
        if not container.snapshot_key:
            return []
        snapshotter = self._snapshotters.get(container.snapshotter)
        if snapshotter is None:
            raise errors.NotFound(f"snapshotter {container.snapshotter}: not found")
        mounts = await snapshotter.mounts(Scope(namespace), container.snapshot_key)
        return [
            MountMessage(type=each.type, source=each.source, target=each.target, options=each.options)
            for each in mounts
        ]

    async def _stop(self, namespace: str, id: str) -> None:
        log.info("stopping container", namespace=namespace, id=id)
        shim = await self._manager.get(namespace, id)
        for number in (signal.SIGTERM, signal.SIGKILL):
            request = shim_api.KillRequest(id=id, signal=number, all=number == signal.SIGKILL)
            try:
                await shim.call("Kill", request, shim_api.DeleteResponse)
                async with asyncio.timeout(_STOP_SECONDS):
                    await shim.wait("")
                break
            except errors.NotFound:
                break
            except TimeoutError:
                continue
        await self._manager.delete(namespace, id)

    async def _count(self, namespace: str, id: str, count: int) -> None:
        def note(transaction: Transaction) -> None:
            row = transaction.one(
                "SELECT record FROM containers WHERE namespace = ? AND id = ?", (namespace, id)
            )
            if row is None:
                raise errors.NotFound(f'container "{id}": not found')
            container = Container.FromString(row[0])
            container.labels[policy.COUNT] = str(count)
            container.updated_at.CopyFrom(timestamp(time.time_ns()))
            transaction.execute(
                "UPDATE containers SET record = ? WHERE namespace = ? AND id = ?",
                (container.SerializeToString(), namespace, id),
            )
            edges.record(transaction, namespace, edges.of_container(container))
            event = ContainerUpdate(
                id=id,
                image=container.image,
                labels=dict(container.labels),
                snapshot_key=container.snapshot_key,
            )
            transaction.publish(namespace, "/containers/update", event)

        await self._store.write(note)
