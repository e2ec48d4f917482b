"""All shims of the daemon: how one comes, how it is found, how it goes.

A task's name, (namespace, id), is taken before anything is made for it and
given back after the last of it is gone. In between it is in one of four states:

    loading    found at boot; every call waits until we know what it is
    creating   a Create is under way; for all others there is no such task
    live       calls go to its shim
    dying      its shim is gone; for all others there is no such task, but a
               new Create waits until the clean-up is done

    (none) --Create--> creating --ok--> live --Delete-----------------> (none)
                          |              |  `--connection lost--> dying --> (none)
                          `--failed---> (none)
    (none) --boot----> loading --shim answers--> live
                          `------shim is dead--> (none)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import structlog
from google.protobuf.empty_pb2 import Empty

from longshore.api.errors import AlreadyExists, Error, InvalidArgument, NotFound, Unavailable
from longshore.api.events.task_pb2 import TaskDelete, TaskExit
from longshore.api.runtime.task.v3.shim_pb2 import (
    CreateTaskRequest,
    CreateTaskResponse,
    DeleteRequest,
    DeleteResponse,
    ShutdownRequest,
    WaitResponse,
)
from longshore.api.services.exits.v1.exits_pb2 import ReportRequest
from longshore.containerd.metadata.store import Event, Store
from longshore.containerd.oserrors import meaning
from longshore.containerd.tasks.bootstrap import NEWEST_VERSION, Bootstrap
from longshore.containerd.tasks.bundle import Bundle, Directories
from longshore.containerd.tasks.checkpoints import FOLDER as CHECKPOINT
from longshore.containerd.tasks.journal import EXIT_TOPIC, Journal, as_exit, life_began, reports_in
from longshore.containerd.tasks.ledger import Exit, Ledger
from longshore.containerd.tasks.runtimes import Program, Runtime, Runtimes, Settings, builtin_program
from longshore.containerd.tasks.shim import Shim, Timeouts, exit_response, gone, worded
from longshore.containerd.tasks.shimlog import ShimLog
from longshore.containerd.times import now
from longshore.ttrpc.aio import Client, Closed
from longshore.zygote.client import ShimRequest, ShimStarted, WorkerDied, WorkerError, shim_address

log = structlog.get_logger("tasks")

Key = tuple[str, str]

Fill = Callable[[str], Awaitable[None]]
"""Makes the folder whose path it is given."""

BURY_AGAIN = 1.0  # seconds
_ATTEMPTS = 3  # at a shim
UNKNOWN_STATUS = 255  # of a process whose end nobody saw


class ShimStarter(Protocol):
    """What we need of the zygote."""

    async def start_shim(self, request: ShimRequest) -> ShimStarted: ...


class _Pending:
    """A name that is taken while its task is coming or going; its ledger goes on learning of exits."""

    def __init__(self, state: str, ledger: Ledger) -> None:
        self.state = state
        self.ledger = ledger
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Manager:
    """Start, find, delete and bury shims. One per daemon."""

    def __init__(
        self,
        directories: Directories,
        settings: Settings,
        starter: ShimStarter | None,
        store: Store,
        *,
        runtimes: Mapping[str, str] = MappingProxyType({}),
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (immutable)
    ) -> None:
        self.directories = directories
        self.settings = settings
        self.timeouts = timeouts
        self.runtimes = Runtimes(runtimes)
        self.journal = Journal(store)
        self._starter = starter
        self._tasks: dict[Key, Shim | _Pending] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False
        store.on_events(self._observe)

    # -- finding --

    async def get(self, namespace: str, id: str) -> Shim:
        """The shim of a task. Raises NotFound; waits while it is being recovered."""
        while True:
            found = self._tasks.get((namespace, id))
            if isinstance(found, Shim):
                return found
            if found is None or found.state != "loading":
                raise gone(id)
            await asyncio.shield(found.over)

    async def wait(self, namespace: str, id: str, exec_id: str) -> WaitResponse:
        """How a process of a task ended, once it has. Raises NotFound, Unavailable when the daemon stops.

        Whoever asks while a dead shim is being buried still gets the answer.
        """
        found = self._tasks.get((namespace, id))
        if isinstance(found, _Pending) and found.state == "dying":
            await asyncio.shield(found.over)
            return exit_response(found.ledger, id, exec_id)
        return await (await self.get(namespace, id)).wait(exec_id)

    async def all(self, namespace: str) -> list[Shim]:
        """Every live shim of a namespace, by id; waits while some are being recovered."""
        for key, found in list(self._tasks.items()):
            if key[0] == namespace and isinstance(found, _Pending) and found.state == "loading":
                await asyncio.shield(found.over)
        shims = [
            shim for (owner, _), shim in self._tasks.items() if owner == namespace and isinstance(shim, Shim)
        ]
        return sorted(shims, key=lambda shim: shim.id)

    # -- coming --

    async def create(
        self,
        namespace: str,
        runtime_name: str,
        spec: bytes,
        request: CreateTaskRequest,
        checkpoint: Fill | None = None,
    ) -> CreateTaskResponse:
        """Make a bundle, start its shim, create the task in it.

        `request` comes without `bundle`. With `checkpoint`, which makes a
        folder of images, the task comes out of that. Raises AlreadyExists for a taken name
        and whatever made it fail; then nothing is left of it.
        """
        try:
            runtime = self.runtimes.resolve(runtime_name)
        except Error as error:
            raise Error(f"failed to start shim: failed to resolve runtime path: {error.message}") from None
        bundle = Bundle(self.directories, namespace, request.id)
        pending = await self._take((namespace, request.id))
        try:
            try:
                await asyncio.to_thread(self._make_bundle, bundle, runtime, spec)
            except OSError as error:
                raise meaning(error, f"failed to create bundle {bundle.path}") from None
            if checkpoint is not None:
                request.checkpoint = await self._filled(bundle, checkpoint)
            shim = await self._started(bundle, runtime, request, pending.ledger)
        except BaseException:
            self._free((namespace, request.id), pending)
            raise
        self._settle((namespace, request.id), shim, pending)
        return CreateTaskResponse(pid=shim.ledger.pid_of(""))

    async def _filled(self, bundle: Bundle, checkpoint: Fill) -> str:
        """The folder of the images, in a bundle that goes again if there are none."""
        folder = bundle.file(CHECKPOINT)
        try:
            await checkpoint(folder)
        except BaseException:
            await self._remove_bundle(bundle)
            raise
        return folder

    def _make_bundle(self, bundle: Bundle, runtime: Runtime, spec: bytes) -> None:
        bundle.create(spec)
        try:
            bundle.write_shim_binary(runtime.program or builtin_program())
        except BaseException:
            bundle.remove()
            raise

    async def _started(
        self, bundle: Bundle, runtime: Runtime, request: CreateTaskRequest, ledger: Ledger
    ) -> Shim:
        """Start the shim of a fresh bundle and have it create the task; on failure all of it goes again.

        A group's shim that was about to end when we found it is Unavailable: then another is started.
        """
        shim: Shim | None = None
        shimlog = ShimLog(bundle)
        attempts = _ATTEMPTS if runtime.builtin else 1
        try:
            while True:
                attempts -= 1
                try:
                    before = self.journal.head()
                    bootstrap = (await self._launch(bundle, runtime, request))._replace(journal=before)
                    client, _ = await asyncio.gather(
                        self._dial(bootstrap), asyncio.to_thread(bundle.write_bootstrap, bootstrap)
                    )
                    shim = Shim(bundle, runtime, bootstrap, client, ledger, shimlog)
                    await self._create_task(shim, request)
                    return shim
                except Unavailable:
                    if not attempts:
                        raise
                    if shim is not None:
                        shim.client.close()
        except BaseException as error:
            shimlog.close()
            await self._give_up(bundle, runtime, shim, alive=not isinstance(error, Closed))
            if isinstance(error, Error):
                raise worded(
                    error, "failed to create shim task: " if shim else "failed to start shim: "
                ) from None
            raise

    async def _launch(self, bundle: Bundle, runtime: Runtime, request: CreateTaskRequest) -> Bootstrap:
        if not runtime.builtin or self._starter is None:
            options = request.options if request.HasField("options") else None
            return await self._program(bundle, runtime).start(options)
        settings = self.settings
        try:
            started = await self._starter.start_shim(
                ShimRequest(
                    namespace=bundle.namespace,
                    id=bundle.id,
                    bundle=bundle.path,
                    address=settings.grpc_address,
                    ttrpc_address=settings.ttrpc_address,
                    exits_address=settings.grpc_address,
                    socket_dir=settings.socket_dir,
                    runtime_root=settings.runtime_root,
                    debug=settings.debug,
                )
            )
        except (WorkerError, WorkerDied) as error:
            raise Error(f"{error}: unknown") from None
        return Bootstrap(started.version, started.address, started.protocol)

    async def _dial(self, bootstrap: Bootstrap) -> Client:
        try:
            return await Client.connect(bootstrap.address, timeout=self.timeouts.connect)
        except OSError as error:
            raise Unavailable(
                f"failed to connect to shim at {bootstrap.address}: {error.strerror}: unavailable"
            ) from None

    async def _create_task(self, shim: Shim, request: CreateTaskRequest) -> None:
        request.bundle = shim.bundle.path
        answer = await shim.first_call("Create", request, CreateTaskResponse)
        pid = answer.pid or (await shim.connect(self.timeouts.load)).task_pid
        shim.ledger.started("", pid)

    async def _give_up(self, bundle: Bundle, runtime: Runtime, shim: Shim | None, *, alive: bool) -> None:
        """Take back a failed Create. What fails here is logged: the client hears of the first error."""
        try:
            if shim is not None and alive:
                await self.delete_task(shim)
                await self.dismiss(shim)
                return
            if shim is not None:
                shim.hang_up()
                await self._program(bundle, runtime).delete(self.timeouts.cleanup)
        except Error as error:
            log.warning("clean-up after a failed create", id=bundle.id, error=error.message)
        await self._remove_bundle(bundle)

    async def delete_task(self, shim: Shim) -> None:
        """Delete what nobody will ask for any more; `dismiss` follows. What fails is logged."""
        try:
            await shim.call(
                "Delete", DeleteRequest(id=shim.id), DeleteResponse, timeout=self.timeouts.cleanup
            )
        except NotFound:
            pass
        except Error as error:
            log.warning("task not deleted", id=shim.id, error=error.message)

    # -- going --

    async def delete(self, namespace: str, id: str) -> DeleteResponse:
        """Delete a task that has ended (or never started), and its shim with it.

        Raises what the shim answers, and NotFound the second time.
        """
        shim = await self.get(namespace, id)
        async with shim.deleting:
            if self._tasks.get((namespace, id)) is not shim:
                raise gone(id)
            unknown: NotFound | None = None
            answer = DeleteResponse()
            try:
                answer = await shim.call("Delete", DeleteRequest(id=id), DeleteResponse)
            except NotFound as error:
                if shim.client.closed.done():
                    await asyncio.shield(shim.buried)
                    raise
                unknown = error
            except Error as error:
                raise worded(error, "failed to delete task: ") from None
            shim.dismissed = True
            await self.dismiss(shim)
            self._free((namespace, id), None)
        if unknown is not None:
            raise unknown
        return answer

    async def dismiss(self, shim: Shim) -> None:
        """Let the shim go, keep what it still had to say, remove the bundle."""
        shim.dismissed = True
        try:
            await shim.call("Shutdown", ShutdownRequest(id=shim.id), Empty, timeout=self.timeouts.shutdown)
        except Error as error:
            if not isinstance(error, NotFound):
                log.warning("shim shutdown", id=shim.id, error=error.message)
        shim.hang_up()
        await self._remove_bundle(shim.bundle)

    async def _remove_bundle(self, bundle: Bundle) -> None:
        try:
            if reports := await asyncio.to_thread(self._remove_unless_unheard, bundle):
                await self.journal.left_behind(reports)
                await asyncio.to_thread(bundle.remove)
        except (OSError, Error) as error:
            log.error("bundle not removed", namespace=bundle.namespace, id=bundle.id, error=str(error))

    def _remove_unless_unheard(self, bundle: Bundle) -> list[ReportRequest]:
        """Remove a bundle, unless it holds reports that the journal lacks: then return these. In a thread."""
        reports = [report for report in reports_in(bundle) if not self.journal.has(report)]
        if not reports:
            bundle.remove()
        return reports

    # -- deaths --

    def _settle(self, key: Key, shim: Shim, pending: _Pending) -> None:
        """The task is live: whoever waits for it may go on, and its death will be noticed."""
        self._tasks[key] = shim
        if not pending.over.done():
            pending.over.set_result(None)
        shim.client.closed.add_done_callback(lambda _: self._lost(key, shim))

    def _lost(self, key: Key, shim: Shim) -> None:
        if shim.dismissed or self._closing or self._tasks.get(key) is not shim:
            if not shim.buried.done():
                shim.buried.set_result(None)
            return
        log.info("shim disconnected", namespace=key[0], id=key[1])
        pending = self._tasks[key] = _Pending("dying", shim.ledger)
        self._spawn(self._bury_lost(key, shim, pending))

    async def _bury_lost(self, key: Key, shim: Shim, pending: _Pending) -> None:
        shim.log.close()
        while not await self._buried(shim):
            # A full disk, say. What is not told yet stays to be told, by the next daemon if not by us.
            if self._closing:
                break
            await asyncio.sleep(BURY_AGAIN)
        shim.buried.set_result(None)
        self._free(key, pending)

    async def _buried(self, shim: Shim) -> bool:
        try:
            await self.bury(shim.bundle, shim.runtime, shim.ledger)
        except Exception as error:
            log.error("clean-up after dead shim failed", id=shim.id, exc_info=error)
            return False
        return True

    async def bury(self, bundle: Bundle, runtime: Runtime, ledger: Ledger) -> None:
        """Clean up after a shim that is gone: journal what it left unsaid, each exit once; remove the rest.

        What it wrote into its bundle is journalled first, so that an exit whose
        status is known is not replaced by one that we make up.
        """
        since = await asyncio.to_thread(life_began, bundle)
        await self.journal.left_behind(await asyncio.to_thread(reports_in, bundle))
        try:
            answer = await self._program(bundle, runtime).delete(self.timeouts.cleanup)
        except Error as error:
            log.warning("shim delete", namespace=bundle.namespace, id=bundle.id, error=error.message)
            answer = DeleteResponse(exit_status=UNKNOWN_STATUS, exited_at=now())
        if not answer.HasField("exited_at"):
            answer.exited_at.CopyFrom(now())
        if pid := ledger.pid_of(""):  # else a Create was under way, and no one has heard of a task
            exits = [Exit(id, pid, answer.exit_status, answer.exited_at) for id, pid in ledger.unfinished()]
            init = ledger.exit_of("") or Exit("", pid, answer.exit_status, answer.exited_at)
            delete = TaskDelete(container_id=bundle.id, pid=pid, exit_status=init.status, exited_at=init.at)
            await self.journal.buried(bundle.namespace, bundle.id, since, exits, delete)
        await self._remove_bundle(bundle)

    # -- boot --

    def expected(self, bundle: Bundle) -> Bootstrap:
        """How a shim of ours is reached whose bundle lacks the word on it. Raises InvalidArgument."""
        settings = self.settings
        try:
            address = shim_address(
                settings.socket_dir, settings.grpc_address, bundle.namespace, bundle.id, bundle.path
            )
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"{bundle.path}: {error}: invalid argument") from None
        return Bootstrap(NEWEST_VERSION, address, "ttrpc")

    def loading(self, bundle: Bundle, ledger: Ledger) -> Callable[[Shim | None], None]:
        """Take the name of a bundle found at boot; call the result with its shim, or None if there is none."""
        key = (bundle.namespace, bundle.id)
        pending = self._tasks[key] = _Pending("loading", ledger)

        def loaded(shim: Shim | None) -> None:
            if shim is None:
                self._free(key, pending)
            else:
                self._settle(key, shim, pending)

        return loaded

    # -- small things --

    async def _take(self, key: Key) -> _Pending:
        while (found := self._tasks.get(key)) is not None:
            if isinstance(found, Shim) or found.state == "creating":
                raise AlreadyExists(f"task {key[1]}: already exists")
            await asyncio.shield(found.over)
        pending = self._tasks[key] = _Pending("creating", Ledger())
        return pending

    def _free(self, key: Key, pending: _Pending | None) -> None:
        self._tasks.pop(key, None)
        if pending is not None and not pending.over.done():
            pending.over.set_result(None)

    def _program(self, bundle: Bundle, runtime: Runtime) -> Program:
        program = runtime.program or builtin_program()
        return Program(program, self.settings, bundle.namespace, bundle.id, bundle.path)

    def _observe(self, events: list[Event]) -> None:
        for event in events:
            if event.topic != EXIT_TOPIC:
                continue
            try:
                exit = TaskExit.FromString(event.event.value)
            except Exception:  # anybody may publish under this topic
                continue
            found = self._tasks.get((event.namespace, exit.container_id))
            if found is not None:
                found.ledger.exited(as_exit(exit))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(_log_failure)

    def stop_waiting(self) -> None:
        """The daemon stops: end the Wait calls of clients, which would hold it up."""
        for shim in self._tasks.values():
            if isinstance(shim, Shim):
                shim.stop_waiting()

    async def close(self) -> None:
        """Let go of all shims, which live on; finish what is being cleaned up."""
        self._closing = True
        while self._background:
            await asyncio.wait(set(self._background))
        for shim in list(self._tasks.values()):
            if isinstance(shim, Shim):
                shim.hang_up()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task clean-up failed", exc_info=error)
