"""The "shim" controller: a sandbox is a shim program that speaks containerd.runtime.sandbox.v1.Sandbox by ttrpc.

Its bundle is like a task's, in a directory of its own. Shims outlive the
daemon; `recover` finds them again. One that dies leaves an exit with status
255, and is cleaned up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import structlog
from google.protobuf.message import Message

from longshore.api import errors
from longshore.api.namespaces import GRPC_HEADER, TTRPC_HEADER, validate_identifier
from longshore.api.runtime.sandbox.v1 import sandbox_pb2 as shim
from longshore.api.services.sandbox.v1.sandbox_pb2 import (
    ControllerCreateRequest,
    ControllerMetricsResponse,
    ControllerPlatformResponse,
    ControllerStartResponse,
    ControllerStatusResponse,
    ControllerWaitResponse,
)
from longshore.api.types.sandbox_pb2 import Sandbox
from longshore.containerd.sandboxes.store import not_found
from longshore.containerd.tasks.bootstrap import Bootstrap
from longshore.containerd.tasks.bundle import Bundle, Directories
from longshore.containerd.tasks.runtimes import Program, Runtime, Runtimes, Settings
from longshore.containerd.tasks.shim import Timeouts
from longshore.containerd.tasks.shimlog import ShimLog
from longshore.containerd.times import now
from longshore.ttrpc.aio import Client, Closed

log = structlog.get_logger("sandboxes")

Answer = TypeVar("Answer", bound=Message)
Key = tuple[str, str]

SERVICE: Final = "containerd.runtime.sandbox.v1.Sandbox"
_LOST: Final = 255  # exit status of a sandbox whose shim died
_LOST_KEPT: Final = 1000

Exited = Callable[[str, str, ControllerWaitResponse], Awaitable[None]]
"""(namespace, id, how it ended)"""


class _Running(NamedTuple):
    bundle: Bundle
    runtime: Runtime
    bootstrap: Bootstrap
    client: Client
    log: ShimLog

    async def call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        """Raises `Closed` when the shim is gone."""
        metadata = {TTRPC_HEADER: [self.bundle.namespace], GRPC_HEADER: [self.bundle.namespace]}
        return await self.client.call(SERVICE, method, request, answer, metadata=metadata)

    @property
    def endpoint(self) -> str:
        """How a client that makes tasks in it is told where they go."""
        return f"{self.bootstrap.protocol}+{self.bootstrap.address}"

    def hang_up(self) -> None:
        self.client.close()
        self.log.close()


class ShimController:
    """`exited` is told of every sandbox that was started and has ended, once."""

    def __init__(
        self,
        directories: Directories,
        settings: Settings,
        runtimes: Runtimes,
        timeouts: Timeouts,
        exited: Exited,
    ) -> None:
        self._directories, self._settings, self._runtimes = directories, settings, runtimes
        self._timeouts, self._exited = timeouts, exited
        self._sandboxes: dict[Key, _Running] = {}
        self._coming: set[Key] = set()
        self._watchers: dict[Key, asyncio.Task[ControllerWaitResponse]] = {}
        # How those ended whose shim died, for who asks later; the oldest go first.
        self._lost: dict[Key, ControllerWaitResponse] = {}

    # -- coming ---------------------------------------------------------------------------------------------

    async def create(self, namespace: str, sandbox: Sandbox, request: ControllerCreateRequest) -> None:
        id = sandbox.sandbox_id
        validate_identifier(id)
        key = (namespace, id)
        if key in self._sandboxes or key in self._coming:
            raise errors.AlreadyExists(f"sandbox {id}: already exists")
        runtime = self._runtime(sandbox.runtime.name)
        self._lost.pop(key, None)
        self._coming.add(key)
        try:
            self._sandboxes[key] = await self._created(namespace, sandbox, request, runtime)
        finally:
            self._coming.discard(key)

    def _runtime(self, name: str) -> Runtime:
        if not name:
            raise errors.InvalidArgument("sandbox.Runtime.Name must be set: invalid argument")
        runtime = self._runtimes.resolve(name)
        if runtime.builtin:
            raise errors.Unimplemented(
                f"runtime {name}: the built-in shim has no sandbox service, give a runtime whose shim has:"
                " not implemented"
            )
        return runtime

    async def _created(
        self, namespace: str, sandbox: Sandbox, request: ControllerCreateRequest, runtime: Runtime
    ) -> _Running:
        bundle = Bundle(self._directories, namespace, sandbox.sandbox_id)
        await asyncio.to_thread(bundle.create, sandbox.spec.value or b"{}")
        running: _Running | None = None
        try:
            await asyncio.to_thread(bundle.write_shim_binary, runtime.program)
            running = await self._launch(bundle, runtime, sandbox)
            await self._begin(running, request)
        except BaseException:
            await self._remove(bundle, runtime, running)
            raise
        return running

    async def _launch(self, bundle: Bundle, runtime: Runtime, sandbox: Sandbox) -> _Running:
        shimlog = ShimLog(bundle)
        try:
            options = sandbox.runtime.options if sandbox.runtime.HasField("options") else None
            bootstrap = await self._program(bundle, runtime).start(options)
            client = await Client.connect(bootstrap.address, timeout=self._timeouts.connect)
            await asyncio.to_thread(bundle.write_bootstrap, bootstrap)
        except OSError as error:
            shimlog.close()
            raise errors.Unavailable(f"failed to connect to shim: {error.strerror}: unavailable") from None
        except BaseException:
            shimlog.close()
            raise
        return _Running(bundle, runtime, bootstrap, client, shimlog)

    async def _begin(self, running: _Running, request: ControllerCreateRequest) -> None:
        creation = shim.CreateSandboxRequest(
            sandbox_id=running.bundle.id,
            bundle_path=running.bundle.path,
            rootfs=request.rootfs,
            options=request.options if request.HasField("options") else None,
            netns_path=request.netns_path,
            annotations=dict(request.annotations),
        )
        try:
            await running.call("CreateSandbox", creation, shim.CreateSandboxResponse)
        except errors.Unimplemented as error:
            raise errors.Unimplemented(
                f"runtime {running.runtime.name}: its shim has no sandbox service: {error.message}"
            ) from None
        except Closed:
            raise errors.Unavailable("the sandbox's shim ended while it was created: unavailable") from None

    async def start(self, namespace: str, id: str) -> ControllerStartResponse:
        running = self._get(namespace, id)
        started = await self._call(
            running, "StartSandbox", shim.StartSandboxRequest(sandbox_id=id), shim.StartSandboxResponse
        )
        self._watch(running)
        return ControllerStartResponse(
            sandbox_id=id,
            pid=started.pid,
            created_at=started.created_at if started.HasField("created_at") else None,
            address=running.endpoint,
            version=running.bootstrap.version,
            spec=started.spec if started.HasField("spec") else None,
        )

    # -- being ----------------------------------------------------------------------------------------------

    async def wait(self, namespace: str, id: str) -> ControllerWaitResponse:
        lost = self._lost.get((namespace, id))
        if lost is not None:
            return lost
        return await asyncio.shield(self._watch(self._get(namespace, id)))

    async def status(self, namespace: str, id: str, verbose: bool) -> ControllerStatusResponse:
        running = self._sandboxes.get((namespace, id))
        if running is None:
            return ControllerStatusResponse(sandbox_id=id, exited_at=now())
        request = shim.SandboxStatusRequest(sandbox_id=id, verbose=verbose)
        found = await self._call(running, "SandboxStatus", request, shim.SandboxStatusResponse)
        answer = ControllerStatusResponse(
            sandbox_id=found.sandbox_id or id,
            pid=found.pid,
            state=found.state,
            info=dict(found.info),
            address=running.endpoint,
            version=running.bootstrap.version,
        )
        for field in ("created_at", "exited_at", "extra"):
            if found.HasField(field):
                getattr(answer, field).CopyFrom(getattr(found, field))
        return answer

    async def platform(self, namespace: str, id: str) -> ControllerPlatformResponse:
        request = shim.PlatformRequest(sandbox_id=id)
        found = await self._call(self._get(namespace, id), "Platform", request, shim.PlatformResponse)
        return ControllerPlatformResponse(platform=found.platform)

    async def metrics(self, namespace: str, id: str) -> ControllerMetricsResponse:
        request = shim.SandboxMetricsRequest(sandbox_id=id)
        found = await self._call(
            self._get(namespace, id), "SandboxMetrics", request, shim.SandboxMetricsResponse
        )
        return ControllerMetricsResponse(metrics=found.metrics)

    # -- going ----------------------------------------------------------------------------------------------

    async def stop(self, namespace: str, id: str, timeout: int) -> None:
        running = self._sandboxes.get((namespace, id))
        if running is None:
            return
        request = shim.StopSandboxRequest(sandbox_id=id, timeout_secs=timeout)
        try:
            await running.call("StopSandbox", request, shim.StopSandboxResponse)
        except (Closed, errors.NotFound):
            pass

    async def shutdown(self, namespace: str, id: str) -> None:
        running = self._get(namespace, id)
        request = shim.ShutdownSandboxRequest(sandbox_id=id)
        try:
            await running.call("ShutdownSandbox", request, shim.ShutdownSandboxResponse)
        except (Closed, errors.NotFound):
            pass
        watcher = self._watchers.get((namespace, id))
        if watcher is not None:
            await asyncio.wait([watcher], timeout=self._timeouts.shutdown)
        self._sandboxes.pop((namespace, id), None)
        await self._remove(running.bundle, running.runtime, running)

    async def close(self) -> None:
        """The daemon stops; the shims go on."""
        for watcher in self._watchers.values():
            watcher.cancel()
        for running in self._sandboxes.values():
            running.hang_up()

    # -- after a restart ------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Find what the last daemon left, before clients are served; remove what has died."""
        await asyncio.to_thread(self._directories.prepare)
        for problem in await asyncio.to_thread(self._directories.sweep):
            log.error("leftover not removed", error=problem)
        for bundle in await asyncio.to_thread(lambda: list(self._directories.bundles())):
            runtime = self._runtimes.recorded(bundle.read_shim_binary(), "")
            try:
                bootstrap = bundle.read_bootstrap()
                client = await Client.connect(bootstrap.address, timeout=self._timeouts.load)
            except (OSError, errors.Error):
                log.info("removing a sandbox whose shim is gone", namespace=bundle.namespace, id=bundle.id)
                await self._remove(bundle, runtime, None)
                continue
            running = _Running(bundle, runtime, bootstrap, client, ShimLog(bundle))
            self._sandboxes[bundle.namespace, bundle.id] = running
            self._watch(running)

    # -- small things ---------------------------------------------------------------------------------------

    def _get(self, namespace: str, id: str) -> _Running:
        running = self._sandboxes.get((namespace, id))
        if running is None:
            raise not_found(id)
        return running

    async def _call(self, running: _Running, method: str, request: Message, answer: type[Answer]) -> Answer:
        try:
            return await running.call(method, request, answer)
        except Closed:
            raise not_found(running.bundle.id) from None

    def _watch(self, running: _Running) -> asyncio.Task[ControllerWaitResponse]:
        """The one wait for its end."""
        key = (running.bundle.namespace, running.bundle.id)
        watcher = self._watchers.get(key)
        if watcher is None:
            watcher = self._watchers[key] = asyncio.create_task(self._end(key, running))
            watcher.add_done_callback(lambda done: self._watched(key, done))
        return watcher

    def _watched(self, key: Key, watcher: asyncio.Task[ControllerWaitResponse]) -> None:
        self._watchers.pop(key, None)
        if not watcher.cancelled() and (error := watcher.exception()) is not None:
            log.error("waiting for a sandbox failed", namespace=key[0], id=key[1], error=str(error))

    async def _end(self, key: Key, running: _Running) -> ControllerWaitResponse:
        try:
            request = shim.WaitSandboxRequest(sandbox_id=key[1])
            ended = await running.call("WaitSandbox", request, shim.WaitSandboxResponse)
            answer = ControllerWaitResponse(
                exit_status=ended.exit_status,
                exited_at=ended.exited_at if ended.HasField("exited_at") else now(),
            )
        except Closed:
            answer = ControllerWaitResponse(exit_status=_LOST, exited_at=now())
            if self._sandboxes.get(key) is running:
                del self._sandboxes[key]
                self._lost[key] = answer
                if len(self._lost) > _LOST_KEPT:
                    del self._lost[next(iter(self._lost))]
                await self._remove(running.bundle, running.runtime, running)
        await self._exited(*key, answer)
        return answer

    async def _remove(self, bundle: Bundle, runtime: Runtime, running: _Running | None) -> None:
        """All that is left of a sandbox. What fails is logged."""
        if running is not None:
            running.hang_up()
        try:
            if runtime.program:
                await self._program(bundle, runtime).delete(self._timeouts.cleanup)
        except errors.Error as error:
            log.warning("shim delete", namespace=bundle.namespace, id=bundle.id, error=error.message)
        try:
            await asyncio.to_thread(bundle.remove)
        except (OSError, errors.Error) as error:
            log.error("bundle not removed", namespace=bundle.namespace, id=bundle.id, error=str(error))

    def _program(self, bundle: Bundle, runtime: Runtime) -> Program:
        return Program(runtime.program, self._settings, bundle.namespace, bundle.id, bundle.path)
