"""Starting: everything that a running container needs, or none of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.api import typeurls
from longshore.api.errors import AlreadyExists, Error, FailedPrecondition, NotFound
from longshore.api.services.containers.v1 import containers_pb2
from longshore.api.services.tasks.v1 import tasks_pb2
from longshore.client import users
from longshore.dockerd.backend import failures, health, places, runtimes
from longshore.dockerd.backend.create import LABEL
from longshore.dockerd.backend.live import Live, Outcome, copied
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.engine import NetworkPlace, StdioPaths
from longshore.dockerd.errors import Conflict, NotModified
from longshore.dockerd.records import Container, Health
from longshore.dockerd.spec import build, links
from longshore.dockerd.spec.settings import Place, Settings

if TYPE_CHECKING:
    from longshore.api.types.mount_pb2 import Mount

Spec = dict[str, Any]


class Starting:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = Settings.of(parts.config)

    def check(self, live: Live) -> None:
        """Raises NotModified (it runs), Conflict (paused, being removed)."""
        status = live.record.state.status
        if status == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        if status == "running":
            raise NotModified(f"container {live.id} is already running")
        if live.record.state.removing or status in ("removing", "dead"):
            raise Conflict("container is marked for removal and cannot be started")

    async def start(self, live: Live) -> None:
        """With the lock held. Raises what `failures` makes of a refusal; all is undone then, the record says why."""
        draft = live.draft()
        try:
            async with AsyncExitStack() as undo:
                await self._run(live, draft, undo)
                undo.pop_all()
        except BaseException as error:
            live.process = None
            live.end_attaching()
            await self._failed(live, error)
            raise
        self._parts.publish(live, "start")

    async def _run(self, live: Live, draft: Container, undo: AsyncExitStack) -> None:
        """The record for containerd needs the network, the task needs the logger too: the two are made side by side."""
        parts = self._parts
        undo.push_async_callback(places.release, parts, draft)
        await places.take(parts, draft, self._settings)
        # By its own name for it: the networks remember the record that they were given.
        undo.push_async_callback(parts.networks.leave, live.record)
        undo.push_async_callback(parts.logs.ended, draft)
        undo.push_async_callback(self._drop_task, live.id)
        logger = asyncio.ensure_future(self._logger(live, draft))
        recorded = asyncio.ensure_future(self._recorded(live, draft))
        await asyncio.wait((logger, recorded))  # each ends before any is undone
        mounts, stdio = recorded.result(), logger.result()
        try:
            await self._start_task(live, draft, stdio, mounts)
            await self._attach(live)  # who came in between
        except Error as error:
            raise failures.translate(error) from error

    async def _logger(self, live: Live, draft: Container) -> StdioPaths:
        stdio = await self._parts.logs.open(draft)
        await self._attach(live)
        return stdio

    async def _recorded(self, live: Live, draft: Container) -> Sequence[Mount]:
        network = asyncio.ensure_future(self._parts.networks.join(live.record))
        mounts = asyncio.ensure_future(self._mounts(live))
        await asyncio.wait((network, mounts))
        place, found = network.result(), mounts.result()
        draft.networks, draft.ports = copied(live.record.networks), dict(live.record.ports)
        spec = build.make(draft, self._place(draft, place, found))
        live.process = spec["process"]
        live.out_of_memory = False
        try:
            await self._record(draft, spec)
        except Error as error:
            raise failures.translate(error) from error
        return found

    async def _mounts(self, live: Live) -> Sequence[Mount]:
        if live.mounts is None:
            live.mounts = await self._parts.snapshots(live).mounts(live.id)
        return live.mounts

    def _place(self, draft: Container, network: NetworkPlace, mounts: Sequence[Mount]) -> Place:
        linked = links.environment(draft, self._peer)
        return Place(network, users.layers(mounts), self._peer, self._settings, linked)

    def _peer(self, name: str) -> Container:
        return self._parts.registry.find(name).record

    async def _attach(self, live: Live) -> None:
        """Those who came before the start are connected before the first byte."""
        for future in list(live.attaching):
            attachment = await self._parts.logs.attach(live.record)
            if future.done():
                await attachment.close()
            else:
                future.set_result(attachment)

    async def _start_task(
        self, live: Live, draft: Container, stdio: StdioPaths, mounts: Sequence[Mount]
    ) -> None:
        runtime = runtimes.find(self._parts.config, draft.host_config.runtime)
        request = tasks_pb2.CreateTaskRequest(
            container_id=draft.id,
            rootfs=mounts,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
            options=runtime.packed(),
        )
        tasks = self._parts.client.tasks
        pid = (await tasks.call(tasks.stub.Create, request)).pid
        state = draft.state
        state.status, state.pid, state.exit_code, state.error = "running", pid, 0, ""
        state.started_ns, state.finished_ns = time.time_ns(), 0
        state.oom_killed = state.manually_stopped = False
        state.health = Health() if health.plan(draft.config) else None
        draft.has_been_started = True
        # The record may say that it runs a moment before it does: if we die here, there is a task to compare with.
        saving = asyncio.ensure_future(self._parts.registry.save(live, draft))
        starting = asyncio.ensure_future(
            tasks.call(tasks.stub.Start, tasks_pb2.StartRequest(container_id=draft.id))
        )
        await asyncio.wait((saving, starting))
        starting.result()
        saving.result()

    async def _record(self, draft: Container, spec: Spec) -> None:
        """containerd's own record of it; there while it runs."""
        runtime = runtimes.find(self._parts.config, draft.host_config.runtime)
        record = containers_pb2.Container(
            id=draft.id,
            image=draft.image_ref,
            snapshotter=draft.driver,
            snapshot_key=draft.id,
            labels={LABEL: draft.id},
            runtime=containers_pb2.Container.Runtime(name=runtime.name, options=runtime.packed()),
            spec=AnyMessage(type_url=typeurls.SPEC, value=json.dumps(spec).encode()),
        )
        client = self._parts.client
        request = containers_pb2.CreateContainerRequest(container=record)
        try:
            await client.connection.call(client.containers.stub.Create, request)
        except AlreadyExists:
            # Left by a dockerd that died: nobody runs it, or the record would say so.
            await self._drop_task(draft.id)
            await client.connection.call(client.containers.stub.Create, request)

    async def _drop_task(self, id: str) -> None:
        """Whatever there is of a task, and containerd's record."""
        with suppress(NotFound):
            await (await self._parts.client.tasks.get(id)).destroy()
        await forget_record(self._parts, id)

    async def _failed(self, live: Live, cause: BaseException) -> None:
        draft = live.draft()
        state = draft.state
        code = failures.code_of(cause)
        was_running = state.status in ("running", "restarting")
        state.pid, state.exit_code, state.error = 0, code, str(cause)
        if was_running:
            state.status, state.finished_ns = "exited", time.time_ns()
        draft.ports = {}
        with suppress(Error, OSError):
            await self._parts.registry.save(live, draft)
        live.stopped.tell(Outcome(code))


async def forget_record(parts: Parts, id: str) -> None:
    """Remove containerd's record; the snapshot stays."""
    client = parts.client
    request = containers_pb2.DeleteContainerRequest(id=id)
    with suppress(NotFound, FailedPrecondition):
        await client.connection.call(client.containers.stub.Delete, request)
