"""The sandbox Controller service: picks the controller that a request names, and tells the world what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message

from longshore.api import errors
from longshore.api.events.sandbox_pb2 import SandboxCreate, SandboxExit, SandboxStart
from longshore.api.services.sandbox.v1.sandbox_pb2 import (
    ControllerCreateRequest,
    ControllerCreateResponse,
    ControllerMetricsRequest,
    ControllerMetricsResponse,
    ControllerPlatformRequest,
    ControllerPlatformResponse,
    ControllerShutdownRequest,
    ControllerShutdownResponse,
    ControllerStartRequest,
    ControllerStartResponse,
    ControllerStatusRequest,
    ControllerStatusResponse,
    ControllerStopRequest,
    ControllerStopResponse,
    ControllerUpdateRequest,
    ControllerUpdateResponse,
    ControllerWaitRequest,
    ControllerWaitResponse,
)
from longshore.api.services.sandbox.v1.sandbox_pb2_grpc import ControllerServicer
from longshore.api.types.sandbox_pb2 import Sandbox
from longshore.containerd import rpc
from longshore.containerd.metadata.store import Store
from longshore.containerd.sandboxes.controller import Controller
from longshore.containerd.sandboxes.store import load

DEFAULT: Final = "shim"


async def publish(store: Store, namespace: str, topic: str, event: Message) -> None:
    await store.write(lambda transaction: transaction.publish(namespace, topic, event), urgent=True)


async def publish_exit(store: Store, namespace: str, id: str, ended: ControllerWaitResponse) -> None:
    """What a controller's `exited` does."""
    event = SandboxExit(sandbox_id=id, exit_status=ended.exit_status, exited_at=ended.exited_at)
    await publish(store, namespace, "/sandboxes/exit", event)


class SandboxControllerService(ControllerServicer):
    def __init__(self, store: Store, controllers: Mapping[str, Controller]) -> None:
        self._store, self._controllers = store, controllers

    @rpc.unary(mutates=True)
    async def Create(self, request: ControllerCreateRequest, call: rpc.Call) -> ControllerCreateResponse:
        controller, namespace = self._named(request.sandboxer), call.namespace
        sandbox = self._sandbox(namespace, request)
        await controller.create(namespace, sandbox, request)
        event = SandboxCreate(sandbox_id=sandbox.sandbox_id)
        await publish(self._store, namespace, "/sandboxes/create", event)
        return ControllerCreateResponse(sandbox_id=sandbox.sandbox_id)

    def _sandbox(self, namespace: str, request: ControllerCreateRequest) -> Sandbox:
        """As the request has it, or the record of that id."""
        if not request.HasField("sandbox"):
            return load(self._store, namespace, request.sandbox_id)
        sandbox = request.sandbox
        sandbox.sandbox_id = request.sandbox_id or sandbox.sandbox_id
        return sandbox

    @rpc.unary(mutates=True)
    async def Start(self, request: ControllerStartRequest, call: rpc.Call) -> ControllerStartResponse:
        namespace = call.namespace
        started = await self._named(request.sandboxer).start(namespace, request.sandbox_id)
        event = SandboxStart(sandbox_id=request.sandbox_id)
        await publish(self._store, namespace, "/sandboxes/start", event)
        return started

    @rpc.unary(mutates=True)
    async def Stop(self, request: ControllerStopRequest, call: rpc.Call) -> ControllerStopResponse:
        await self._named(request.sandboxer).stop(call.namespace, request.sandbox_id, request.timeout_secs)
        return ControllerStopResponse()

    @rpc.unary()
    async def Wait(self, request: ControllerWaitRequest, call: rpc.Call) -> ControllerWaitResponse:
        return await self._named(request.sandboxer).wait(call.namespace, request.sandbox_id)

    @rpc.unary()
    async def Status(self, request: ControllerStatusRequest, call: rpc.Call) -> ControllerStatusResponse:
        return await self._named(request.sandboxer).status(
            call.namespace, request.sandbox_id, request.verbose
        )

    @rpc.unary(mutates=True)
    async def Shutdown(
        self, request: ControllerShutdownRequest, call: rpc.Call
    ) -> ControllerShutdownResponse:
        await self._named(request.sandboxer).shutdown(call.namespace, request.sandbox_id)
        return ControllerShutdownResponse()

    @rpc.unary()
    async def Platform(
        self, request: ControllerPlatformRequest, call: rpc.Call
    ) -> ControllerPlatformResponse:
        return await self._named(request.sandboxer).platform(call.namespace, request.sandbox_id)

    @rpc.unary()
    async def Metrics(self, request: ControllerMetricsRequest, call: rpc.Call) -> ControllerMetricsResponse:
        return await self._named(request.sandboxer).metrics(call.namespace, request.sandbox_id)

    @rpc.unary(mutates=True)
    async def Update(self, request: ControllerUpdateRequest, call: rpc.Call) -> ControllerUpdateResponse:
        """Nothing that a controller would have to know can change yet."""
        self._named(request.sandboxer)
        return ControllerUpdateResponse()

    def _named(self, name: str) -> Controller:
        controller = self._controllers.get(name or DEFAULT)
        if controller is None:
            raise errors.NotFound(f"failed to get sandbox controller by {name}: not found")
        return controller
