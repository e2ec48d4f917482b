"""What the shim does: the verbs on its table of containers, and the order of their events.

    create  streams, then a worker mounts the rootfs and creates   -> /tasks/create
    start   a worker lets init go on, or starts an exec            -> /tasks/start, /tasks/exec-started
    exit    noticed by the reaper                                  -> /tasks/exit
    delete  output drained, then a worker deletes and unmounts     -> /tasks/delete

create < start < exit < delete for each process. Init's exit is held back until
the exits of its execs are published; an exit that comes while a worker starts
the process waits for the start's event. Verbs on one process follow each other
(its lock); State, Kill, Wait and CloseIO never wait.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from longshore.api import namespaces
from longshore.api.errors import AlreadyExists, Error, FailedPrecondition, InvalidArgument, NotFound
from longshore.api.events import task_pb2 as events
from longshore.api.runtime.task.v3.shim_pb2 import CreateTaskRequest, ExecProcessRequest
from longshore.linux import files, mounts
from longshore.linux.cgroup import layout
from longshore.linux.cgroup.manager import Cgroup
from longshore.oci.errors import explain
from longshore.shim import console, oom, runtime, stats, stdio
from longshore.shim.direct import Direct
from longshore.shim.events import Publisher
from longshore.shim.loop import Loop, Promise, spawn
from longshore.shim.oom import OomWatch
from longshore.shim.process import Container, Process
from longshore.shim.reaper import Exit, Reaper
from longshore.shim.runtime import Image, Made, Runtime, Settings
from longshore.shim.stdio import Owner, Streams
from longshore.shim.workers import WORKER_DIED, WorkerFailed, Workers

SIGKILL = 9
CONSOLE_SECONDS = 30.0
DRAIN_SECONDS = 10.0
DELETE_SECONDS = 10.0
# With the collector off, what cycles there are go when this many processes have gone.
COLLECT_EVERY = 64


class Tasks:
    """The containers of one shim."""

    def __init__(self, loop: Loop, workers: Workers, reaper: Reaper) -> None:
        self._loop = loop
        self._workers = workers
        self._reaper = reaper
        self._publisher: Publisher
        self._namespace = ""
        self._runtime_root = ""
        self._containers: dict[str, Container] = {}
        self._creating: set[str] = set()
        self._deleted = 0

    def begin(self, publisher: Publisher, namespace: str, runtime_root: str) -> None:
        """Before the first call: where events go, and what is said of all containers here."""
        self._publisher = publisher
        self._namespace = namespace
        self._runtime_root = runtime_root

    @property
    def empty(self) -> bool:
        """Whether nothing is left to look after."""
        return not self._containers and not self._creating

    def container(self, id: str) -> Container:
        """Raises NotFound."""
        try:
            return self._containers[id]
        except KeyError:
            raise NotFound("container not created: not found") from None

    def process(self, id: str, exec_id: str) -> Process:
        """Raises NotFound."""
        return self.container(id).process(exec_id)

    # Create

    async def create(self, request: CreateTaskRequest) -> Container:
        """Make a container; its init waits for `start`."""
        namespaces.validate_identifier(request.id)
        if request.id in self._containers or request.id in self._creating:
            raise AlreadyExists(f"task {request.id}: already exists")
        settings = runtime.settings_from(request.options)
        settings = settings._replace(root=settings.root or self._runtime_root)
        self._creating.add(request.id)
        try:
            return await self._create(request, settings)
        finally:
            self._creating.discard(request.id)

    async def _create(self, request: CreateTaskRequest, settings: Settings) -> Container:
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)
        init = Process(request.id, "", streams)
        runner = runtime.choose(settings, self._namespace, request.bundle)
        container = Container(request.id, request.bundle, settings, runner, init)
        rootfs = [mounts.Mount(m.type, m.source, tuple(m.options), m.target) for m in request.rootfs]
        container.mounted = bool(rootfs)
        if request.checkpoint or settings.criu_image:
            return await self._create_from_image(container, request, rootfs)

        oom_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

        def work(console_path: str) -> dict[str, Any]:
            return _create_here(container, rootfs, console_path, oom_event)

        with self._reaper.expecting():
            try:
                made = await self._launch(
                    container, init, work, lambda: _remove_here(container, force=True), keep=[oom_event]
                )
            except BaseException:
                os.close(oom_event)
                raise
            init.pid = made["pid"]
            self._take(container, made)
            self._containers[container.id] = container
            self._publish(container, "/tasks/create", _created(request, init.pid))
            self._watch_oom(container, oom_event, made["oom_file"])
            self._reaper.own(init.pid, lambda ending: self._init_ended(container, ending))
        return container

    async def _create_from_image(
        self, container: Container, request: CreateTaskRequest, rootfs: Sequence[mounts.Mount]
    ) -> Container:
        """As the Go shim has it: nothing runs, and there is no pid, before `start` restores it."""
        if request.terminal:
            raise Error("a task with a terminal can't be restored from a checkpoint")
        settings = container.settings
        path, work = request.checkpoint or settings.criu_image, settings.criu_work or _work(container)
        container.image, _ = runtime.image_from(AnyMessage(), path, work)
        await self._workers.run(lambda: _mount_here(container, rootfs))
        self._containers[container.id] = container
        self._publish(container, "/tasks/create", _created(request, 0))
        return container

    async def _launch(
        self,
        container: Container,
        process: Process,
        work: Callable[[str], Any],
        undo: Callable[[], None],
        keep: Sequence[int] = (),
    ) -> Any:
        """Open a process' streams and run `work` (in a worker) with them; all closed again if it fails.

        `work` cleans up after its own failure; `undo` does it when it could not,
        or when what follows fails.
        """
        settings = container.settings
        owner = Owner(self._namespace, container.id, settings.io_uid, settings.io_gid)
        streams = await stdio.open_stdio(self._loop, process.streams, owner, self._reaper.adopt)
        # From here on, not only once started: a client with a short stdin sends CloseIO while we are at it.
        process.stdio = streams
        try:
            if process.streams.terminal:
                result = await self._with_console(container, streams, work, undo, keep)
            else:
                result = await self._run_or_undo(lambda: work(""), streams, undo, keep)
        except BaseException:
            process.stdio = None
            await streams.close()
            raise
        streams.started()
        return result

    async def _run_or_undo(
        self, work: Callable[[], Any], streams: stdio.Stdio, undo: Callable[[], None], keep: Sequence[int]
    ) -> Any:
        try:
            return await self._workers.run(work, stdio=streams.child_fds(), keep=keep)
        except WorkerFailed as error:
            if error.kind == WORKER_DIED:
                await self._workers.run(undo)
            raise

    async def _with_console(
        self,
        container: Container,
        streams: stdio.Stdio,
        work: Callable[[str], Any],
        undo: Callable[[], None],
        keep: Sequence[int],
    ) -> Any:
        with console.ConsoleSocket(self._loop, container.bundle) as socket:
            result = await self._run_or_undo(lambda: work(socket.path), streams, undo, keep)
            try:
                streams.attach(await self._loop.within(CONSOLE_SECONDS, socket.master))
            except (OSError, TimeoutError) as error:
                await self._workers.run(undo)
                raise Error(f"failed to retrieve console master: {error}") from None
        return result

    def _watch_oom(self, container: Container, event: int, file: str) -> None:
        if not file:
            # A host without a memory controller: the container runs, out-of-memory goes unreported.
            os.close(event)
            return
        message = events.TaskOOM(container_id=container.id)
        container.oom = OomWatch(
            self._loop, event, file, lambda: self._publish(container, "/tasks/oom", message)
        )

    # Exec and start

    def add_exec(self, request: ExecProcessRequest) -> None:
        """Register a process; `start` runs it."""
        container = self.container(request.id)
        if not request.exec_id:
            raise InvalidArgument("exec id is required: invalid argument")
        namespaces.validate_identifier(request.exec_id)
        if request.exec_id in container.execs:
            raise AlreadyExists(f"id {request.exec_id}: already exists")
        container.init.check("exec")
        spec = request.spec.value
        process = _json(spec, "process spec")
        if isinstance(process, dict) and bool(process.get("terminal")) != request.terminal:
            # The request decides, for the streams are its.
            spec = json.dumps(process | {"terminal": request.terminal}).encode()
        streams = Streams(request.stdin, request.stdout, request.stderr, request.terminal)
        container.execs[request.exec_id] = Process(container.id, request.exec_id, streams, spec)
        added = events.TaskExecAdded(container_id=container.id, exec_id=request.exec_id)
        self._publish(container, "/tasks/exec-added", added)

    async def start(self, id: str, exec_id: str) -> Process:
        """Let init run, or start an exec."""
        container = self.container(id)
        process = container.process(exec_id)
        async with process.lock:
            process.check("start")
            process.starting = True
            try:
                if exec_id:
                    await self._try_exec(container, process)
                elif container.image is not None:
                    await self._restore(container, container.image)
                else:
                    await self._start_init(container)
            finally:
                process.starting = False
                self._settle(container)
        return process

    async def _start_init(self, container: Container) -> None:
        direct = container.direct
        if direct is not None and direct.startable():
            await direct.start()
        else:
            await self._workers.run(lambda: container.runtime.start(container.id))
        container.init.state = "running"
        started = events.TaskStart(container_id=container.id, pid=container.init.pid)
        self._publish(container, "/tasks/start", started)

    async def _restore(self, container: Container, image: Image) -> None:
        init = container.init
        oom_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

        def work(_: str) -> dict[str, Any]:
            pid = container.runtime.restore(container.bundle, container.id, image)
            return _made(container, pid, oom_event)

        def undo() -> None:
            container.runtime.delete(container.id, force=True)

        with self._reaper.expecting():
            try:
                made = await self._launch(container, init, work, undo, keep=[oom_event])
            except BaseException:
                os.close(oom_event)
                raise
            container.image = None
            init.pid = made["pid"]
            self._take(container, made)
            self._watch_oom(container, oom_event, made["oom_file"])
            init.state = "running"
            started = events.TaskStart(container_id=container.id, pid=init.pid)
            self._publish(container, "/tasks/start", started)
            self._reaper.own(init.pid, lambda ending: self._init_ended(container, ending))

    def _take(self, container: Container, made: dict[str, Any]) -> None:
        container.own_pid_namespace = made["own_pid_namespace"]
        container.cgroup_paths, container.cgroup_version = made["cgroup_paths"], made["cgroup_version"]
        if made["directory"]:
            cgroup = Cgroup(container.cgroup_paths, container.cgroup_version)
            container.direct = Direct(self._loop, made["directory"], cgroup)

    async def _try_exec(self, container: Container, process: Process) -> None:
        """Start an exec; who waits for one that could not be started is told at once, of no status and no time."""
        if process.exited.done:
            process.exited = Promise()  # of an earlier try
        try:
            await self._start_exec(container, process)
        except Exception:
            process.exited.resolve(Exit(0, 0))
            raise

    async def _start_exec(self, container: Container, process: Process) -> None:
        if container.init.ending is not None or container.init.state == "stopped":
            raise FailedPrecondition(
                f"container {container.id} init process is not running: failed precondition"
            )
        if container.init.state == "paused" or container.image is not None:
            raise Error(f"cannot exec in a {container.init.state} state")

        def work(console_path: str) -> int:
            return container.runtime.execute(
                container.bundle, container.id, process.exec_id, process.spec, console=console_path
            )

        with self._reaper.expecting():
            process.pid = await self._launch(container, process, work, lambda: _kill_exec(container, process))
            process.state = "running"
            started = events.TaskExecStarted(
                container_id=container.id, exec_id=process.exec_id, pid=process.pid
            )
            self._publish(container, "/tasks/exec-started", started)
            self._reaper.own(process.pid, lambda ending: self._exec_ended(container, process, ending))

    # Ends

    def _init_ended(self, container: Container, ending: Exit) -> None:
        container.init.ending = ending
        if not container.own_pid_namespace:
            # Nobody else ends them: without a PID namespace of its own, its children outlive init.
            spawn(self._kill_rest(container))
        self._settle(container)

    async def _kill_rest(self, container: Container) -> None:
        try:
            await self._workers.run(lambda: container.runtime.kill(container.id, SIGKILL, all=True))
        except Error as error:
            self._loop.on_error(error)

    def _exec_ended(self, container: Container, process: Process, ending: Exit) -> None:
        process.ending = ending
        self._settle(container)

    def _settle(self, container: Container) -> None:
        """Publish the exits whose turn has come: execs first, init when none of them is left."""
        for process in list(container.execs.values()):
            if process.ending is not None and process.state != "stopped" and not process.starting:
                self._publish_exit(container, process, process.ending)
        init = container.init
        if init.ending is None or init.state == "stopped" or init.starting:
            return
        if not any(process.active for process in container.execs.values()):
            self._publish_exit(container, init, init.ending)

    def _publish_exit(self, container: Container, process: Process, ending: Exit) -> None:
        process.state = "stopped"
        exit_event = events.TaskExit(
            container_id=container.id, id=process.id, pid=process.pid, exit_status=ending.status
        )
        exit_event.exited_at.FromNanoseconds(ending.at)
        self._publish(container, "/tasks/exit", exit_event)
        process.exited.resolve(ending)

    # Delete

    async def delete(self, id: str, exec_id: str) -> Process:
        """Remove a process that has ended (or never started); init's takes the container with it."""
        container = self.container(id)
        process = container.process(exec_id)
        async with process.lock:
            if container.process(exec_id) is not process or self.container(id) is not container:
                raise NotFound(f"process does not exist {exec_id}: not found")
            process.check("delete")
            await self._drain(process)
            if exec_id:
                await self._close(process)
                container.execs.pop(exec_id, None)
            else:
                await self._delete_container(container)
        process.exited.reject(NotFound(f"process {process.id} was deleted: not found"))
        self._collect()
        return process

    async def _drain(self, process: Process) -> None:
        if process.stdio is not None and process.state == "stopped":
            try:
                await self._loop.within(DRAIN_SECONDS, process.stdio.drained)
            except TimeoutError:
                # Something else still holds the pipes; it has had its time.
                pass

    async def _close(self, process: Process) -> None:
        if process.stdio is not None:
            await process.stdio.close()

    async def _delete_container(self, container: Container) -> None:
        init = container.init
        if not self._remove_directly(container):
            await self._workers.run(lambda: _remove_here(container, force=False))
        if init.state != "stopped" and init.pid:
            await self._loop.within(DELETE_SECONDS, init.exited)
        for process in (*container.execs.values(), init):
            await self._close(process)
        if container.oom is not None:
            container.oom.close()
        del self._containers[container.id]
        deleted = events.TaskDelete(container_id=container.id, pid=init.pid)
        if init.ending is not None:
            deleted.exit_status = init.ending.status
            deleted.exited_at.FromNanoseconds(init.ending.at)
        self._publish(container, "/tasks/delete", deleted)
        container.journal.close()

    def _remove_directly(self, container: Container) -> bool:
        """Remove a container here and now; False if a worker must do it, or the rest of it.

        To unmount may mean to write a disk's caches out, so it is done here only
        when there is nobody else to be kept waiting.
        """
        if container.direct is None or container.init.state != "stopped":
            return False
        if container.mounted and len(self._containers) + len(self._creating) > 1:
            return False
        if not container.direct.delete():
            return False
        if container.mounted:
            mounts.unmount_all(f"{container.bundle}/rootfs")
        return True

    def _collect(self) -> None:
        self._deleted += 1
        if self._deleted % COLLECT_EVERY == 0:
            gc.collect()

    # The rest

    async def pause(self, id: str) -> None:
        container = self.container(id)
        async with container.init.lock:
            container.init.check("pause")
            container.pausing = True
            try:
                await self._workers.run(lambda: container.runtime.pause(id))
            finally:
                container.pausing = False
            self._move(container, "paused")
        self._publish(container, "/tasks/paused", events.TaskPaused(container_id=id))

    async def resume(self, id: str) -> None:
        container = self.container(id)
        async with container.init.lock:
            container.init.check("resume")
            await self._workers.run(lambda: container.runtime.resume(id))
            self._move(container, "running")
        self._publish(container, "/tasks/resumed", events.TaskResumed(container_id=id))

    async def checkpoint(self, id: str, path: str, options: Any) -> None:
        """Write a task to disk (CheckpointOptions as an Any); it goes on unless they say exit."""
        container = self.container(id)
        image, exits = runtime.image_from(options, path, _work(container))
        async with container.init.lock:
            container.init.check("checkpoint")
            await self._workers.run(lambda: container.runtime.checkpoint(id, image, leave_running=not exits))
        self._publish(
            container, "/tasks/checkpointed", events.TaskCheckpointed(container_id=id, checkpoint=image.path)
        )

    def _move(self, container: Container, state: Any) -> None:
        # It may have been killed while the worker ran.
        for process in (container.init, *container.execs.values()):
            if process.state in ("running", "paused"):
                process.state = state

    async def kill(self, id: str, exec_id: str, signal: int, *, all: bool) -> None:
        """Signal a process, or with `all` every one in the container."""
        container = self.container(id)
        process = container.process(exec_id)
        process.check_killable()
        if exec_id:
            self._reaper.signal(process.pid, signal)
        elif all or container.settings.binary or process.state == "paused":
            await self._kill_by_runtime(container, signal, all=all)
        else:
            self._reaper.signal(process.pid, signal)

    async def _kill_by_runtime(self, container: Container, signal: int, *, all: bool) -> None:
        try:
            await self._workers.run(lambda: container.runtime.kill(container.id, signal, all=all))
        except Error as error:
            raise _kill_error(error) from None

    async def pids(self, id: str) -> list[tuple[int, str]]:
        """Host pids of all processes, with the exec id of those that are execs."""
        container = self.container(id)
        found: Sequence[int] = await self._workers.run(lambda: container.runtime.pids(id))
        names = {process.pid: process.exec_id for process in container.execs.values()}
        return [(pid, names.get(pid, "")) for pid in found]

    async def update(self, id: str, resources: bytes) -> None:
        """Apply OCI LinuxResources (JSON)."""
        container = self.container(id)
        async with container.init.lock:
            container.init.check("update")
            _json(resources, "LinuxResources")
            await self._workers.run(lambda: container.runtime.update(id, resources))

    async def stats(self, id: str) -> tuple[str, bytes]:
        """The full name and the bytes of a Metrics message."""
        container = self.container(id)
        name, data = await self._workers.run(
            lambda: stats.metrics(container.cgroup_paths, container.cgroup_version)
        )
        return name, data

    def resize(self, id: str, exec_id: str, width: int, height: int) -> None:
        """Set the size of a terminal; without one, nothing."""
        process = self.process(id, exec_id)
        if exec_id or process.streams.terminal:
            process.check("resize")
        if process.stdio is not None and process.stdio.master >= 0:
            console.resize(process.stdio.master, width, height)

    def close_stdin(self, id: str, exec_id: str) -> None:
        process = self.process(id, exec_id)
        if process.stdio is not None:
            process.stdio.close_stdin()

    def _publish(self, container: Container, topic: str, event: Message) -> None:
        self._publisher.publish(container.journal, topic, event)


def _created(request: CreateTaskRequest, pid: int) -> events.TaskCreate:
    return events.TaskCreate(
        container_id=request.id,
        bundle=request.bundle,
        rootfs=request.rootfs,
        io=events.TaskIO(
            stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal
        ),
        checkpoint=request.checkpoint,
        pid=pid,
    )


def _json(data: bytes, what: str) -> Any:
    """Raises InvalidArgument."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise InvalidArgument(f"{what} is no JSON: {error}: invalid argument") from None


def _kill_error(error: Error) -> Error:
    text = error.message.lower()
    if any(
        words in text
        for words in ("process already finished", "container not running", "no such process", "not running")
    ):
        return NotFound("process already finished: not found")
    if "does not exist" in text:
        return NotFound("no such container: not found")
    return Error(f"unknown error after kill: {error.message}")


def _work(container: Container) -> str:
    """Where criu's log goes when nobody says: into the work folder, which outlives the bundle's shim."""
    folder = f"{container.bundle}/work"
    return f"{folder if os.path.isdir(folder) else container.bundle}/criu-work"


# In workers


def _create_here(
    container: Container, rootfs: Sequence[mounts.Mount], console_path: str, oom_event: int
) -> dict[str, Any]:
    settings, bundle = container.settings, container.bundle
    _mount_here(container, rootfs)
    try:
        pid = container.runtime.create(
            bundle,
            container.id,
            console=console_path,
            no_pivot=settings.no_pivot,
            no_new_keyring=settings.no_new_keyring,
        )
    except BaseException:
        mounts.unmount_all(f"{bundle}/rootfs")
        raise
    return _made(container, pid, oom_event)


def _mount_here(container: Container, rootfs: Sequence[mounts.Mount]) -> None:
    if container.image is not None and not os.path.isdir(container.image.path):
        raise InvalidArgument(f"checkpoint {container.image.path}: no such folder: invalid argument")
    runtime.save(container.bundle, container.settings)
    if container.settings.shim_cgroup:
        _move_into_cgroup(os.getppid(), container.settings.shim_cgroup)
    try:
        mounts.mount_all(rootfs, f"{container.bundle}/rootfs")
    except OSError as error:
        raise Error(f"failed to mount rootfs component: {explain(error)}") from None


def _made(container: Container, pid: int, oom_event: int) -> dict[str, Any]:
    spec = json.loads(files.read_bounded(f"{container.bundle}/config.json", 64 << 20))
    try:
        made = container.runtime.made(container.id, pid)
    except OSError:
        # Killed already: its exit will say so.
        made = Made({}, 1, "")
    return {
        "pid": pid,
        "oom_file": _arm_oom(oom_event, made.cgroup_paths, made.cgroup_version),
        "own_pid_namespace": _own_pid_namespace(spec),
        **made._asdict(),
    }


def _arm_oom(event: int, paths: dict[str, str], version: int) -> str:
    try:
        return oom.arm(event, paths, version)
    except (OSError, KeyError):
        return ""


def _move_into_cgroup(pid: int, path: str) -> None:
    """Move a process into an existing cgroup, in each hierarchy that has it."""
    cgroup = Cgroup.of(layout.detect(), path)
    found = [place for place in cgroup.paths.values() if os.path.isdir(place)]
    if not found:
        raise Error(f"shim cgroup {path} does not exist")
    for place in found:
        files.write_file(f"{place}/cgroup.procs", str(pid))


def _kill_exec(container: Container, process: Process) -> None:
    """End an exec whose worker didn't live to tell its pid; the runtime's pid file may know."""
    try:
        os.kill(int(files.read_bounded(f"{container.bundle}/{process.exec_id}.pid", 32)), SIGKILL)
    except (OSError, ValueError):
        pass


def _own_pid_namespace(spec: dict[str, Any]) -> bool:
    listed = (spec.get("linux") or {}).get("namespaces") or ()
    return any(entry.get("type") == "pid" and not entry.get("path") for entry in listed)


def _remove_here(container: Container, *, force: bool) -> None:
    remove(container.runtime, container.id, container.bundle, force=force)


def remove(runner: Runtime, id: str, bundle: str, *, force: bool) -> None:
    """Delete a container (one that isn't there is fine) and unmount its rootfs. Blocks."""
    try:
        runner.delete(id, force=force)
    except Error as error:
        if "does not exist" not in error.message and not force:
            raise
    mounts.unmount_all(f"{bundle}/rootfs")
