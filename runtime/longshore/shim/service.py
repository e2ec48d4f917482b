"""The Task service, v2 and v3: a table of methods, each of which unpacks, calls `Tasks`, packs.

The two versions differ in their package name only; their messages are the
same on the wire, so one set of classes serves both.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from longshore.api import typeurls
from longshore.api.errors import InvalidArgument, NotFound, Unavailable, Unimplemented, undecodable
from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.api.types.runc.options.oci_pb2 import ProcessDetails
from longshore.api.types.task.task_pb2 import ProcessInfo, Status
from longshore.shim import states
from longshore.shim.process import Container, Process
from longshore.shim.tasks import Tasks

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
# What Go says for "no time yet".
ZERO_SECONDS = -62135596800


class Method(NamedTuple):
    request: type[Message]
    run: Callable[[Any], Awaitable[Message]]


class Service:
    """Carries out calls by name. `shut_down` is called when the daemon wants the shim to end."""

    def __init__(self, tasks: Tasks, shut_down: Callable[[], None]) -> None:
        self._tasks = tasks
        self._shut_down = shut_down
        # Set when the shim has given up its socket: whoever still has a connection must start another.
        self.ending = False
        self._methods = {
            "State": Method(api.StateRequest, self._state),
            "Create": Method(api.CreateTaskRequest, self._create),
            "Start": Method(api.StartRequest, self._start),
            "Delete": Method(api.DeleteRequest, self._delete),
            "Pids": Method(api.PidsRequest, self._pids),
            "Pause": Method(api.PauseRequest, self._pause),
            "Resume": Method(api.ResumeRequest, self._resume),
            "Checkpoint": Method(api.CheckpointTaskRequest, self._checkpoint),
            "Kill": Method(api.KillRequest, self._kill),
            "Exec": Method(api.ExecProcessRequest, self._exec),
            "ResizePty": Method(api.ResizePtyRequest, self._resize_pty),
            "CloseIO": Method(api.CloseIORequest, self._close_io),
            "Update": Method(api.UpdateTaskRequest, self._update),
            "Wait": Method(api.WaitRequest, self._wait),
            "Stats": Method(api.StatsRequest, self._stats),
            "Connect": Method(api.ConnectRequest, self._connect),
            "Shutdown": Method(api.ShutdownRequest, self._shutdown),
        }

    async def call(self, service: str, method: str, payload: bytes) -> Message:
        """Raises Unimplemented for a name not served, InvalidArgument for bytes that are no request."""
        if service not in SERVICES:
            raise Unimplemented(f"service {service}: not implemented")
        if method not in self._methods:
            raise Unimplemented(f"method {method} of {service}: not implemented")
        kind, run = self._methods[method]
        try:
            request = kind.FromString(payload)
        except DecodeError as error:
            raise InvalidArgument(
                f"unmarshal {kind.__name__}: {undecodable(error)}: invalid argument"
            ) from None
        return await run(request)

    async def _state(self, request: api.StateRequest) -> Message:
        container = self._tasks.container(request.id)
        process = container.process(request.exec_id)
        answer = api.StateResponse(
            id=process.id,
            bundle=container.bundle,
            pid=process.pid,
            status=_status(container, process),
            stdin=process.streams.stdin,
            stdout=process.streams.stdout,
            stderr=process.streams.stderr,
            terminal=process.streams.terminal,
            exec_id=process.exec_id,
        )
        _set_exit(answer, process)
        return answer

    async def _create(self, request: api.CreateTaskRequest) -> Message:
        if self.ending:
            raise Unavailable("shim is shutting down: unavailable")
        container = await self._tasks.create(request)
        return api.CreateTaskResponse(pid=container.init.pid)

    async def _start(self, request: api.StartRequest) -> Message:
        process = await self._tasks.start(request.id, request.exec_id)
        return api.StartResponse(pid=process.pid)

    async def _delete(self, request: api.DeleteRequest) -> Message:
        process = await self._tasks.delete(request.id, request.exec_id)
        answer = api.DeleteResponse(pid=process.pid)
        _set_exit(answer, process)
        return answer

    async def _pids(self, request: api.PidsRequest) -> Message:
        answer = api.PidsResponse()
        for pid, exec_id in await self._tasks.pids(request.id):
            info = typeurls.pack(ProcessDetails(exec_id=exec_id)) if exec_id else None
            answer.processes.append(ProcessInfo(pid=pid, info=info))
        return answer

    async def _pause(self, request: api.PauseRequest) -> Message:
        await self._tasks.pause(request.id)
        return Empty()

    async def _resume(self, request: api.ResumeRequest) -> Message:
        await self._tasks.resume(request.id)
        return Empty()

    async def _checkpoint(self, request: api.CheckpointTaskRequest) -> Message:
        await self._tasks.checkpoint(request.id, request.path, request.options)
        return Empty()

    async def _kill(self, request: api.KillRequest) -> Message:
        await self._tasks.kill(request.id, request.exec_id, request.signal, all=request.all)
        return Empty()

    async def _exec(self, request: api.ExecProcessRequest) -> Message:
        self._tasks.add_exec(request)
        return Empty()

    async def _resize_pty(self, request: api.ResizePtyRequest) -> Message:
        self._tasks.resize(request.id, request.exec_id, request.width, request.height)
        return Empty()

    async def _close_io(self, request: api.CloseIORequest) -> Message:
        if request.stdin:
            self._tasks.close_stdin(request.id, request.exec_id)
        return Empty()

    async def _update(self, request: api.UpdateTaskRequest) -> Message:
        await self._tasks.update(request.id, request.resources.value)
        return Empty()

    async def _wait(self, request: api.WaitRequest) -> Message:
        process = self._tasks.process(request.id, request.exec_id)
        await process.exited
        answer = api.WaitResponse()
        _set_exit(answer, process)
        return answer

    async def _stats(self, request: api.StatsRequest) -> Message:
        name, data = await self._tasks.stats(request.id)
        return api.StatsResponse(stats=AnyMessage(type_url=name, value=data))

    async def _connect(self, request: api.ConnectRequest) -> Message:
        answer = api.ConnectResponse(shim_pid=os.getpid(), version="longshore")
        try:
            answer.task_pid = self._tasks.container(request.id).init.pid
        except NotFound:
            pass
        return answer

    async def _shutdown(self, request: api.ShutdownRequest) -> Message:
        # A shim that serves a group ends with its last container only.
        if self._tasks.empty:
            self._shut_down()
        return Empty()


def _status(container: Container, process: Process) -> Status.ValueType:
    if container.pausing and process.state == "running":
        return Status.PAUSING
    if process.exec_id and process.state == "running" and container.init.state == "paused":
        return Status.PAUSED
    return states.STATUS[process.state]


def _set_exit(answer: Any, process: Process) -> None:
    if process.ending is not None and process.state == "stopped":
        answer.exit_status = process.ending.status
        answer.exited_at.FromNanoseconds(process.ending.at)
    else:
        answer.exited_at.seconds = ZERO_SECONDS
