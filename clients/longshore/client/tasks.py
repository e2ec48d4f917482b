"""Running processes: a container's task, and what is executed in it beside.

The life of one: made (the shim has its pipes open), started, waited for,
deleted. `Process` is that life; `Task` adds what concerns a whole container.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.api import typeurls
from longshore.api.errors import Error, FailedPrecondition, NotFound
from longshore.api.services.tasks.v1 import tasks_pb2 as pb
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.metrics_pb2 import Metric
from longshore.api.types.mount_pb2 import Mount
from longshore.api.types.task import task_pb2 as task
from longshore.client.io import IO, Null, Paths, Reader, Streams, Writer, open_streams
from longshore.client.spec import Spec
from longshore.client.stubs import stub

if TYPE_CHECKING:
    import asyncio

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from longshore.api.services.tasks.v1.tasks_pb2_grpc import TasksAsyncStub
    from longshore.api.types.runc.options.oci_pb2 import CheckpointOptions
    from longshore.client.client import AsyncClient
    from longshore.client.images import Image

SIGKILL = 9
SIGTERM = 15
UNKNOWN_EXIT = 255

State = task.Process
ProcessInfo = task.ProcessInfo


class ExitStatus(NamedTuple):
    """`code` is the exit code, or 128 + the signal; `exited_at_ns` counts from the epoch (0: not known)."""

    code: int
    exited_at_ns: int = 0


def _exit(code: int, stamp: Timestamp) -> ExitStatus:
    # The zero time of Go travels as the year 1: negative seconds.
    return ExitStatus(code, max(0, stamp.seconds * 1_000_000_000 + stamp.nanos))


class Process:
    """One process. As a context manager it is killed (if it still runs) and deleted at the end of the block.

    `stdin`, `stdout`, `stderr` are there from the moment when the shim has
    opened its ends, if they were asked for as `Pipes`.
    """

    def __init__(
        self, tasks: Tasks, container: str, exec_id: str = "", streams: Streams | None = None
    ) -> None:
        self._tasks = tasks
        self._streams = streams
        self._waiting: asyncio.Task[ExitStatus] | None = None
        self._deleted: ExitStatus | None = None
        self.container = container
        self.exec_id = exec_id
        self.pid = 0

    @property
    def streams(self) -> Streams | None:
        """All pipes at once; None without any."""
        return self._streams

    @property
    def stdin(self) -> Writer:
        return _wanted(self._streams.stdin if self._streams else None, "stdin")

    @property
    def stdout(self) -> Reader:
        return _wanted(self._streams.stdout if self._streams else None, "stdout")

    @property
    def stderr(self) -> Reader:
        return _wanted(self._streams.stderr if self._streams else None, "stderr")

    def _attach(self) -> None:
        if self._streams is not None:
            self._streams.attach(self._close_stdin)

    async def _close_stdin(self) -> None:
        request = pb.CloseIORequest(container_id=self.container, exec_id=self.exec_id, stdin=True)
        with suppress(NotFound, FailedPrecondition):  # it has ended: nobody is left to read
            await self._tasks.call(self._tasks.stub.CloseIO, request)

    async def start(self) -> int:
        """Run it; answers the pid as the host sees it. The exit is watched from before the start."""
        self._watch()
        request = pb.StartRequest(container_id=self.container, exec_id=self.exec_id)
        self.pid = (await self._tasks.call(self._tasks.stub.Start, request)).pid
        if self.exec_id:
            self._attach()
        return self.pid

    def _watch(self) -> asyncio.Task[ExitStatus]:
        import asyncio

        failed = self._waiting is not None and self._waiting.done() and self._failed(self._waiting)
        if self._waiting is None or failed:  # a daemon that came back can be asked again
            self._waiting = asyncio.ensure_future(self._wait())
            self._waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._waiting

    @staticmethod
    def _failed(waiting: asyncio.Task[ExitStatus]) -> bool:
        return waiting.cancelled() or waiting.exception() is not None

    async def _wait(self) -> ExitStatus:
        request = pb.WaitRequest(container_id=self.container, exec_id=self.exec_id)
        answer = await self._tasks.call(self._tasks.stub.Wait, request)
        return _exit(answer.exit_status, answer.exited_at)

    async def wait(self) -> ExitStatus:
        """The exit status, once there is one; any number of callers may wait."""
        if self._deleted is not None:
            return self._deleted
        import asyncio

        return await asyncio.shield(self._watch())

    async def state(self) -> State:
        """Status, pid, streams and exit. Raises NotFound."""
        request = pb.GetRequest(container_id=self.container, exec_id=self.exec_id)
        return (await self._tasks.call(self._tasks.stub.Get, request)).process

    async def kill(self, signal: int = SIGTERM, *, all: bool = False) -> None:
        """Send a signal, with `all` to every process of the container. Raises NotFound when it has ended."""
        request = pb.KillRequest(container_id=self.container, exec_id=self.exec_id, signal=signal, all=all)
        await self._tasks.call(self._tasks.stub.Kill, request)

    async def resize(self, width: int, height: int) -> None:
        """Tell its terminal the size in characters."""
        request = pb.ResizePtyRequest(
            container_id=self.container, exec_id=self.exec_id, width=width, height=height
        )
        await self._tasks.call(self._tasks.stub.ResizePty, request)

    async def delete(self) -> ExitStatus:
        """Forget an ended (or never started) process and close its pipes. Raises FailedPrecondition if it runs."""
        try:
            answer = await self._delete()
        except Error as error:
            # A shim's refusal arrives without a class.
            if "cannot delete a" in error.message:
                raise FailedPrecondition(error.message) from None
            raise
        self._deleted = _exit(answer.exit_status, answer.exited_at)
        await self._forget()
        return self._deleted

    async def _delete(self) -> pb.DeleteResponse:
        request = pb.DeleteProcessRequest(container_id=self.container, exec_id=self.exec_id)
        return await self._tasks.call(self._tasks.stub.DeleteProcess, request)

    async def _forget(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.cancel()
        if self._streams is not None:
            self._streams.close()

    async def destroy(self) -> ExitStatus:
        """Kill it if it runs, delete it. Output that nobody has read is dropped. No error if it is gone."""
        if self._deleted is not None:
            return self._deleted
        with suppress(NotFound, FailedPrecondition):
            await self.kill(SIGKILL, all=not self.exec_id)
        self._attach()
        async with _drained(self._streams):
            try:
                state = await self.state()
                if state.pid and state.status not in (task.CREATED, task.STOPPED):
                    await self.wait()
                return await self.delete()
            except NotFound:
                await self._forget()
                return ExitStatus(UNKNOWN_EXIT)

    def detach(self) -> None:
        """Let it be: the process goes on, unwatched, and its pipes stay for the next who attaches."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._streams is not None:
            self._streams.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.destroy()


T = TypeVar("T")


def _wanted(stream: T | None, name: str) -> T:
    if stream is None:
        raise ValueError(f"{name} is not attached: ask for Pipes(...) and start the process first")
    return stream


class _drained:
    """While the block runs, read and drop what the process still prints.

    A shim holds back the answer to Delete until it could copy the output: a
    pipe that nobody reads would cost ten seconds.
    """

    def __init__(self, streams: Streams | None) -> None:
        self._readers = (
            [] if streams is None else [r for r in (streams.stdout, streams.stderr) if r is not None]
        )
        self._draining: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        if not self._readers:
            return
        import asyncio

        self._draining = [asyncio.ensure_future(self._drain(reader)) for reader in self._readers]

    async def __aexit__(self, *_: object) -> None:
        if not self._draining:
            return
        import asyncio

        for draining in self._draining:
            draining.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)

    @staticmethod
    async def _drain(reader: Reader) -> None:
        async for _ in reader:
            pass


class Task(Process):
    """A container's init process, and the container as a whole."""

    async def _delete(self) -> pb.DeleteResponse:
        return await self._tasks.call(
            self._tasks.stub.Delete, pb.DeleteTaskRequest(container_id=self.container)
        )

    async def exec(
        self, process: Spec | Sequence[str], *, io: IO | None = None, exec_id: str = ""
    ) -> Process:
        """Register another process: a command, or a whole process object of the spec. `start` runs it.

        A command inherits the container's own process settings (environment,
        user, capabilities). Raises AlreadyExists when the id is in use.
        """
        exec_id = exec_id or f"exec-{os.urandom(6).hex()}"
        io = io if io is not None else Null()
        if not isinstance(process, Mapping):
            container = await self._tasks.client.containers.get(self.container)
            process = {**container.spec["process"], "args": list(process), "terminal": False}
        paths, streams = open_streams(io, self._tasks.client.fifo_dir, exec_id)
        if paths.terminal:
            process = {**process, "terminal": True}
        payload = AnyMessage(type_url=typeurls.PROCESS, value=json.dumps(process).encode())
        request = pb.ExecProcessRequest(
            container_id=self.container,
            exec_id=exec_id,
            spec=payload,
            stdin=paths.stdin,
            stdout=paths.stdout,
            stderr=paths.stderr,
            terminal=paths.terminal,
        )
        try:
            await self._tasks.call(self._tasks.stub.Exec, request)
        except BaseException:
            if streams is not None:
                streams.close()
            raise
        return Process(self._tasks, self.container, exec_id, streams)

    async def pause(self) -> None:
        await self._tasks.call(self._tasks.stub.Pause, pb.PauseTaskRequest(container_id=self.container))

    async def resume(self) -> None:
        await self._tasks.call(self._tasks.stub.Resume, pb.ResumeTaskRequest(container_id=self.container))

    async def checkpoint(self, name: str = "", *, exit: bool = False, work: str = "") -> Image:
        """Save it with its container's writable layer and image, as an image; with `exit` it ends with that.

        Without `name` it is called by container and time. What runs is paused
        meanwhile; criu's logs go to `work`, a folder of the daemon's host.
        Raises AlreadyExists (the name), FailedPrecondition.
        """
        from longshore.api.types.runc.options.oci_pb2 import CheckpointOptions
        from longshore.client.checkpoints import checkpoint_task

        options = CheckpointOptions(exit=exit, work_path=work)
        return await checkpoint_task(self._tasks.client, self.container, name, options)

    async def dump(self, folder: str, *, exit: bool = False, work: str = "") -> None:
        """Have criu's images written to a folder of the daemon's host, and nothing else saved."""
        from longshore.api.types.runc.options.oci_pb2 import CheckpointOptions
        from longshore.client.checkpoints import dump

        options = CheckpointOptions(exit=exit, image_path=folder, work_path=work)
        await dump(self._tasks.client, self.container, options)

    async def pids(self) -> list[ProcessInfo]:
        """Every process in the container, by the host's pids."""
        request = pb.ListPidsRequest(container_id=self.container)
        return list((await self._tasks.call(self._tasks.stub.ListPids, request)).processes)

    async def update(
        self, resources: Mapping[str, Any], annotations: Mapping[str, str] | None = None
    ) -> None:
        """Change limits: `resources` is the spec's linux.resources object."""
        payload = AnyMessage(type_url=typeurls.LINUX_RESOURCES, value=json.dumps(resources).encode())
        request = pb.UpdateTaskRequest(
            container_id=self.container, resources=payload, annotations=annotations or {}
        )
        await self._tasks.call(self._tasks.stub.Update, request)

    async def metrics(self) -> Message:
        """Counters of its cgroup, a message of cgroups v1 or v2. Raises NotFound when it can't be measured."""
        found = await self._tasks.metrics([f'id=="{self.container}"'])
        if not found:
            raise NotFound(f"metrics of {self.container}: not found")
        return decode_metrics(found[0])


def decode_metrics(metric: Metric) -> Message:
    """The message inside a metric. Raises ValueError for a type that is neither cgroup version's."""
    name = typeurls.type_name(metric.data)
    message: Message
    if name == "io.containerd.cgroups.v1.Metrics":
        from longshore.api.cgroups.v1 import metrics_pb2 as v1

        message = v1.Metrics()
    elif name == "io.containerd.cgroups.v2.Metrics":
        from longshore.api.cgroups.v2 import metrics_pb2 as v2

        message = v2.Metrics()
    else:
        raise ValueError(f"unknown metrics {name!r}")
    message.ParseFromString(metric.data.value)
    return message


class Tasks:
    """The tasks of the namespace."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.stub: TasksAsyncStub = stub(pb.DESCRIPTOR, "Tasks", client.connection.channel)
        self.call = client.connection.call

    async def create(
        self,
        container: str,
        *,
        io: IO | None = None,
        rootfs: Sequence[Mount] = (),
        options: AnyMessage | None = None,
        runtime_path: str = "",
        checkpoint: Descriptor | None = None,
    ) -> Task:
        """Make a container's init process, ready to `start`. Raises AlreadyExists, NotFound.

        `rootfs` are the mounts of its snapshot, `checkpoint` a stored one of
        its processes; `Container.create_task` fills them in.
        """
        paths, streams = open_streams(io if io is not None else Null(), self.client.fifo_dir, container)
        request = pb.CreateTaskRequest(
            container_id=container,
            rootfs=rootfs,
            stdin=paths.stdin,
            stdout=paths.stdout,
            stderr=paths.stderr,
            terminal=paths.terminal,
            options=options,
            runtime_path=runtime_path,
            checkpoint=checkpoint,
        )
        try:
            answer = await self.call(self.stub.Create, request)
        except BaseException:
            if streams is not None:
                streams.close()
            raise
        created = Task(self, container, "", streams)
        created.pid = answer.pid
        created._attach()
        return created

    async def get(self, container: str, *, attach: bool = False) -> Task:
        """The task that a container has, with `attach` also its pipes. Raises NotFound."""
        found = Task(self, container)
        state = await found.state()
        found.pid = state.pid
        paths = Paths(state.stdin, state.stdout, state.stderr, state.terminal)
        if any(path.startswith("/") for path in paths.streams()):
            own = all(path.startswith(self.client.fifo_dir) for path in paths.streams())
            shared = self.client.fifo_dir if own else ""
            # Whoever deletes the task removes its pipes; those that we made he also reads to their end.
            found._streams = (Streams.existing if own or attach else Streams.known)(paths, shared)
            if attach:
                found._attach()
        return found

    async def exec_process(self, container: str, exec_id: str) -> Process:
        """An executed process by its id. Raises NotFound."""
        found = Process(self, container, exec_id)
        found.pid = (await found.state()).pid
        return found

    async def checkpoint(self, container: str, options: CheckpointOptions) -> Sequence[Descriptor]:
        """Have a task written to disk: to the folder of the options, else to the content store.

        Answers the stored blobs: criu's images and the container's specification.
        """
        request = pb.CheckpointTaskRequest(container_id=container, options=typeurls.pack(options))
        return list((await self.call(self.stub.Checkpoint, request)).descriptors)

    async def metrics(self, filters: Sequence[str] = ()) -> list[Metric]:
        """Counters of tasks; filters know `id` and `namespace`."""
        return list((await self.call(self.stub.Metrics, pb.MetricsRequest(filters=filters))).metrics)

    async def list(self) -> list[State]:
        return list((await self.call(self.stub.List, pb.ListTasksRequest())).tasks)
