"""What runs sandboxes: the interface behind the Controller service. The implementation here is `shims`.

The life of a sandbox: `create` prepares it, `start` runs it, `wait` returns
when it has ended, for whatever reason; `stop` asks it to end, `shutdown`
removes all of it. After `shutdown` its id is free.
"""

from __future__ import annotations

from typing import Protocol

from longshore.api.services.sandbox.v1.sandbox_pb2 import (
    ControllerCreateRequest,
    ControllerMetricsResponse,
    ControllerPlatformResponse,
    ControllerStartResponse,
    ControllerStatusResponse,
    ControllerWaitResponse,
)
from longshore.api.types.sandbox_pb2 import Sandbox


class Controller(Protocol):
    """Errors are those of `longshore.api.errors`; NotFound for a sandbox that there isn't, unless said otherwise."""

    async def create(self, namespace: str, sandbox: Sandbox, request: ControllerCreateRequest) -> None:
        """AlreadyExists; Unimplemented when the runtime has no sandboxes. After a failure nothing is left."""

    async def start(self, namespace: str, id: str) -> ControllerStartResponse: ...

    async def stop(self, namespace: str, id: str, timeout: int) -> None:
        """One that isn't there is stopped. `timeout` in seconds."""

    async def wait(self, namespace: str, id: str) -> ControllerWaitResponse: ...

    async def status(self, namespace: str, id: str, verbose: bool) -> ControllerStatusResponse:
        """One that isn't there has just exited."""

    async def shutdown(self, namespace: str, id: str) -> None: ...

    async def platform(self, namespace: str, id: str) -> ControllerPlatformResponse: ...

    async def metrics(self, namespace: str, id: str) -> ControllerMetricsResponse: ...
