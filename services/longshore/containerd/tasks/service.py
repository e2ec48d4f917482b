"""The Tasks service: each call finds the container, then its shim, and passes on what was asked.

Nothing about tasks is stored here. What can be refused without the shim is
(identifiers, names that are taken); every other answer is the shim's own,
errors included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from google.protobuf.empty_pb2 import Empty

from longshore.api.errors import Error, InvalidArgument, NotFound
from longshore.api.namespaces import validate_identifier
from longshore.api.runtime.task.v3 import shim_pb2 as shim_api
from longshore.api.services.containers.v1.containers_pb2 import Container
from longshore.api.services.tasks.v1.tasks_pb2 import (
    CheckpointTaskRequest,
    CheckpointTaskResponse,
    CloseIORequest,
    CreateTaskRequest,
    CreateTaskResponse,
    DeleteProcessRequest,
    DeleteResponse,
    DeleteTaskRequest,
    ExecProcessRequest,
    GetRequest,
    GetResponse,
    KillRequest,
    ListPidsRequest,
    ListPidsResponse,
    ListTasksRequest,
    ListTasksResponse,
    MetricsRequest,
    MetricsResponse,
    PauseTaskRequest,
    ResizePtyRequest,
    ResumeTaskRequest,
    StartRequest,
    StartResponse,
    UpdateTaskRequest,
    WaitRequest,
    WaitResponse,
)
from longshore.api.services.tasks.v1.tasks_pb2_grpc import TasksServicer
from longshore.api.types.metrics_pb2 import Metric
from longshore.api.types.task.task_pb2 import UNKNOWN, Process
from longshore.containerd import filters, rpc
from longshore.containerd.scope import Scope
from longshore.containerd.tasks import checkpoints
from longshore.containerd.tasks.checkpoints import Checkpoints
from longshore.containerd.tasks.manager import Manager
from longshore.containerd.tasks.runtimes import DEFAULT
from longshore.containerd.tasks.shim import Shim
from longshore.containerd.times import now

log = structlog.get_logger("tasks")

ContainerOf = Callable[[str, str], Container]
"""(namespace, id) -> the container's record. Raises NotFound."""


class TasksService(TasksServicer):
    """Create, start, watch and end the processes of containers."""

    def __init__(self, manager: Manager, container_of: ContainerOf, checkpoints: Checkpoints) -> None:
        self._manager, self._checkpoints = manager, checkpoints
        self._container_of = container_of

    async def _shim(self, call: rpc.Call, container_id: str) -> Shim:
        """The shim of a container's task. Raises NotFound for a missing container, then for a missing task."""
        namespace = call.namespace
        self._container_of(namespace, container_id)
        return await self._manager.get(namespace, container_id)

    # -- life --

    @rpc.unary(mutates=True)
    async def Create(self, request: CreateTaskRequest, call: rpc.Call) -> CreateTaskResponse:
        namespace = call.namespace
        container = self._container_of(namespace, request.container_id)
        scope = Scope(namespace, call.lease)
        checkpoint = request.checkpoint if request.HasField("checkpoint") else None
        if container.runtime.name == "" and not request.runtime_path:
            log.debug("container without runtime", id=container.id, runtime=DEFAULT)
        answer = await self._manager.create(
            namespace,
            request.runtime_path or container.runtime.name or DEFAULT,
            container.spec.value,
            _create_request(request, container),
            partial(self._checkpoints.unpack, scope, checkpoint) if checkpoint is not None else None,
        )
        return CreateTaskResponse(container_id=request.container_id, pid=answer.pid)

    @rpc.unary(mutates=True)
    async def Start(self, request: StartRequest, call: rpc.Call) -> StartResponse:
        shim = await self._shim(call, request.container_id)
        answer = await shim.call(
            "Start", shim_api.StartRequest(id=shim.id, exec_id=request.exec_id), shim_api.StartResponse
        )
        shim.ledger.started(request.exec_id, answer.pid)
        return StartResponse(pid=answer.pid)

    @rpc.unary(mutates=True)
    async def Delete(self, request: DeleteTaskRequest, call: rpc.Call) -> DeleteResponse:
        namespace = call.namespace
        self._container_of(namespace, request.container_id)
        answer = await self._manager.delete(namespace, request.container_id)
        return DeleteResponse(pid=answer.pid, exit_status=answer.exit_status, exited_at=answer.exited_at)

    @rpc.unary(mutates=True)
    async def DeleteProcess(self, request: DeleteProcessRequest, call: rpc.Call) -> DeleteResponse:
        shim = await self._shim(call, request.container_id)
        if not request.exec_id:
            raise InvalidArgument("exec id cannot be empty")
        answer = await shim.call(
            "Delete",
            shim_api.DeleteRequest(id=shim.id, exec_id=request.exec_id),
            shim_api.DeleteResponse,
        )
        shim.ledger.forget(request.exec_id)
        return DeleteResponse(
            id=request.exec_id, pid=answer.pid, exit_status=answer.exit_status, exited_at=answer.exited_at
        )

    @rpc.unary(mutates=True)
    async def Exec(self, request: ExecProcessRequest, call: rpc.Call) -> Empty:
        if not request.exec_id:
            raise InvalidArgument("exec id cannot be empty")
        shim = await self._shim(call, request.container_id)
        try:
            validate_identifier(request.exec_id)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid exec id {request.exec_id}: {error.message}") from None
        return await shim.call(
            "Exec",
            shim_api.ExecProcessRequest(
                id=shim.id,
                exec_id=request.exec_id,
                terminal=request.terminal,
                stdin=request.stdin,
                stdout=request.stdout,
                stderr=request.stderr,
                spec=request.spec,
            ),
            Empty,
        )

    @rpc.unary()
    async def Wait(self, request: WaitRequest, call: rpc.Call) -> WaitResponse:
        namespace = call.namespace
        self._container_of(namespace, request.container_id)
        answer = await self._manager.wait(namespace, request.container_id, request.exec_id)
        return WaitResponse(exit_status=answer.exit_status, exited_at=answer.exited_at)

    # -- state --

    @rpc.unary()
    async def Get(self, request: GetRequest, call: rpc.Call) -> GetResponse:
        shim = await self._shim(call, request.container_id)
        return GetResponse(process=await self._process(shim, request.exec_id))

    @rpc.unary()
    async def List(self, request: ListTasksRequest, call: rpc.Call) -> ListTasksResponse:
        shims = await self._manager.all(call.namespace)
        found = await asyncio.gather(*(self._listed(shim) for shim in shims))
        return ListTasksResponse(tasks=[process for process in found if process is not None])

    async def _listed(self, shim: Shim) -> Process | None:
        try:
            return await self._process(shim, "")
        except Error:
            return None

    async def _process(self, shim: Shim, exec_id: str) -> Process:
        """State of a process; UNKNOWN if the shim fails to tell. Raises NotFound for what isn't there."""
        try:
            state = await shim.call(
                "State",
                shim_api.StateRequest(id=shim.id, exec_id=exec_id),
                shim_api.StateResponse,
                timeout=self._manager.timeouts.state,
            )
        except NotFound:
            raise
        except Error as error:
            log.error("shim does not tell its state", id=shim.id, error=error.message)
            return Process(id=exec_id or shim.id, status=UNKNOWN)
        return Process(
            id=exec_id or shim.id,
            pid=state.pid,
            status=state.status,
            stdin=state.stdin,
            stdout=state.stdout,
            stderr=state.stderr,
            terminal=state.terminal,
            exit_status=state.exit_status,
            exited_at=state.exited_at if state.HasField("exited_at") else None,
        )

    @rpc.unary()
    async def ListPids(self, request: ListPidsRequest, call: rpc.Call) -> ListPidsResponse:
        shim = await self._shim(call, request.container_id)
        answer = await shim.call("Pids", shim_api.PidsRequest(id=shim.id), shim_api.PidsResponse)
        return ListPidsResponse(processes=answer.processes)

    @rpc.unary()
    async def Metrics(self, request: MetricsRequest, call: rpc.Call) -> MetricsResponse:
        namespace = call.namespace
        test = filters.compile(request.filters)
        shims = [shim for shim in await self._manager.all(namespace) if test(_fields(namespace, shim.id))]
        found = await asyncio.gather(*(self._metric(shim) for shim in shims))
        return MetricsResponse(metrics=[metric for metric in found if metric is not None])

    async def _metric(self, shim: Shim) -> Metric | None:
        try:
            answer = await shim.call(
                "Stats",
                shim_api.StatsRequest(id=shim.id),
                shim_api.StatsResponse,
                timeout=self._manager.timeouts.stats,
            )
        except Error as error:
            if not isinstance(error, NotFound):
                log.error("collecting metrics", id=shim.id, error=error.message)
            return None
        return Metric(timestamp=now(), id=shim.id, data=answer.stats)

    # -- influence --

    @rpc.unary(mutates=True)
    async def Kill(self, request: KillRequest, call: rpc.Call) -> Empty:
        shim = await self._shim(call, request.container_id)
        return await shim.call(
            "Kill",
            shim_api.KillRequest(id=shim.id, exec_id=request.exec_id, signal=request.signal, all=request.all),
            Empty,
        )

    @rpc.unary(mutates=True)
    async def ResizePty(self, request: ResizePtyRequest, call: rpc.Call) -> Empty:
        shim = await self._shim(call, request.container_id)
        return await shim.call(
            "ResizePty",
            shim_api.ResizePtyRequest(
                id=shim.id, exec_id=request.exec_id, width=request.width, height=request.height
            ),
            Empty,
        )

    @rpc.unary(mutates=True)
    async def CloseIO(self, request: CloseIORequest, call: rpc.Call) -> Empty:
        shim = await self._shim(call, request.container_id)
        if request.exec_id:
            await self._process(shim, request.exec_id)  # shims of 1.6 call an unknown one no NotFound here
        return await shim.call(
            "CloseIO",
            shim_api.CloseIORequest(id=shim.id, exec_id=request.exec_id, stdin=request.stdin),
            Empty,
        )

    @rpc.unary(mutates=True)
    async def Pause(self, request: PauseTaskRequest, call: rpc.Call) -> Empty:
        shim = await self._shim(call, request.container_id)
        return await shim.call("Pause", shim_api.PauseRequest(id=shim.id), Empty)

    @rpc.unary(mutates=True)
    async def Resume(self, request: ResumeTaskRequest, call: rpc.Call) -> Empty:
        shim = await self._shim(call, request.container_id)
        return await shim.call("Resume", shim_api.ResumeRequest(id=shim.id), Empty)

    @rpc.unary(mutates=True)
    async def Update(self, request: UpdateTaskRequest, call: rpc.Call) -> Empty:
        shim = await self._shim(call, request.container_id)
        return await shim.call(
            "Update",
            shim_api.UpdateTaskRequest(
                id=shim.id, resources=request.resources, annotations=request.annotations
            ),
            Empty,
        )

    @rpc.unary(mutates=True)
    async def Checkpoint(self, request: CheckpointTaskRequest, call: rpc.Call) -> CheckpointTaskResponse:
        shim = await self._shim(call, request.container_id)
        wanted = checkpoints.image_path(request.options)
        if wanted:
            await self._write(shim, wanted, request)
            return CheckpointTaskResponse()
        container = self._container_of(call.namespace, request.container_id)
        async with checkpoints.scratch(shim.bundle.work_path) as folder:
            await self._write(shim, folder, request)
            saved = await self._checkpoints.save(Scope(call.namespace, call.lease), container, folder)
        return CheckpointTaskResponse(descriptors=saved)

    async def _write(self, shim: Shim, folder: str, request: CheckpointTaskRequest) -> None:
        asked = shim_api.CheckpointTaskRequest(id=shim.id, path=folder, options=request.options)
        await shim.call("Checkpoint", asked, Empty)


def _create_request(request: CreateTaskRequest, container: Container) -> shim_api.CreateTaskRequest:
    """What the shim is asked; options not given with the task are those of the container's runtime."""
    passed = shim_api.CreateTaskRequest(
        id=request.container_id,
        rootfs=request.rootfs,
        terminal=request.terminal,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
    )
    if request.HasField("options"):
        passed.options.CopyFrom(request.options)
    elif container.runtime.HasField("options"):
        passed.options.CopyFrom(container.runtime.options)
    return passed


def _fields(namespace: str, id: str) -> filters.Lookup:
    fields = {"id": id, "namespace": namespace}

    def lookup(path: Sequence[str]) -> str | None:
        return fields.get(path[0]) if len(path) == 1 else None

    return lookup
