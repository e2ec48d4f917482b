"""One shim, as the daemon holds it: a connection, and what is known of its processes.

Task v2 and v3 have the same messages under two service names; which one a shim
speaks is in its bootstrap answer. A shim that claims 3 and doesn't know it is
spoken to as 2 from then on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message

from longshore.api.errors import Error, InvalidArgument, NotFound, Unavailable, Unimplemented
from longshore.api.namespaces import GRPC_HEADER, TTRPC_HEADER
from longshore.api.runtime.task.v3.shim_pb2 import (
    ConnectRequest,
    ConnectResponse,
    WaitRequest,
    WaitResponse,
)
from longshore.containerd.tasks.bootstrap import Bootstrap
from longshore.containerd.tasks.bundle import Bundle
from longshore.containerd.tasks.ledger import Ledger
from longshore.containerd.tasks.runtimes import Runtime
from longshore.containerd.tasks.shimlog import ShimLog
from longshore.ttrpc.aio import Client, Closed

Answer = TypeVar("Answer", bound=Message)


class Timeouts(NamedTuple):
    """In seconds; config.toml names them io.containerd.timeout.<...>."""

    connect: float = 100.0
    load: float = 5.0  # shim.load
    cleanup: float = 5.0  # shim.cleanup
    shutdown: float = 3.0  # shim.shutdown
    state: float = 2.0  # task.state
    stats: float = 2.0  # metrics.shimstats


_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")


def timeouts(configured: Mapping[str, str]) -> Timeouts:
    """The timeouts of config.toml over the defaults. Raises InvalidArgument for what is no Go duration."""
    named = {
        "io.containerd.timeout.shim.load": "load",
        "io.containerd.timeout.shim.cleanup": "cleanup",
        "io.containerd.timeout.shim.shutdown": "shutdown",
        "io.containerd.timeout.task.state": "state",
        "io.containerd.timeout.metrics.shimstats": "stats",
    }
    given = {named[key]: seconds(key, value) for key, value in configured.items() if key in named}
    return Timeouts()._replace(**given)


def seconds(key: str, text: str) -> float:
    """A Go duration ("1m30s"). Raises InvalidArgument that names `key`."""
    if text != "0" and not re.fullmatch(f"({_DURATION.pattern})+", text):
        raise InvalidArgument(f"timeout {key}: {text!r} is not a duration such as 5s: invalid argument")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


class Shim:
    """A live shim and the task it serves."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        bootstrap: Bootstrap,
        client: Client,
        ledger: Ledger,
        log: ShimLog,
    ) -> None:
        self.bundle = bundle
        self.runtime = runtime
        self.bootstrap = bootstrap
        self.client = client
        self.ledger = ledger
        self.log = log
        # Completes when a death has been dealt with: exits and deletion journalled, bundle gone.
        self.buried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Set before we hang up ourselves, so that the end of the connection is no death.
        self.dismissed = False
        self.deleting = asyncio.Lock()
        self._metadata = {TTRPC_HEADER: [bundle.namespace], GRPC_HEADER: [bundle.namespace]}
        self._waits: dict[str, asyncio.Task[WaitResponse]] = {}

    @property
    def id(self) -> str:
        return self.bundle.id

    async def call(
        self, method: str, request: Message, answer: type[Answer], *, timeout: float | None = None
    ) -> Answer:
        """Call a method of the Task service.

        Raises what the shim answers, DeadlineExceeded, and NotFound when it is
        gone: its task is no more, and clean-up is under way.
        """
        try:
            return await self._call(method, request, answer, timeout)
        except Closed:
            raise gone(self.id) from None
        except Error as error:
            raise worded(error) from None

    async def _call(
        self, method: str, request: Message, answer: type[Answer], timeout: float | None
    ) -> Answer:
        service = f"containerd.task.v{self.bootstrap.version}.Task"
        return await self.client.call(
            service, method, request, answer, timeout=timeout, metadata=self._metadata
        )

    async def first_call(
        self, method: str, request: Message, answer: type[Answer], *, timeout: float | None = None
    ) -> Answer:
        """A call (Create, Connect) that finds out whether the shim really speaks version 3.

        Raises `Closed` when the shim is gone.
        """
        try:
            return await self._call(method, request, answer, timeout)
        except Unimplemented:
            if self.bootstrap.version < 3:
                raise
            self.bootstrap = self.bootstrap._replace(version=2)
        result = await self._call(method, request, answer, timeout)
        await asyncio.to_thread(self.bundle.write_bootstrap, self.bootstrap)
        return result

    async def connect(self, timeout: float) -> ConnectResponse:
        """Ask the shim who it is. Raises `Closed` when it is gone."""
        return await self.first_call("Connect", ConnectRequest(id=self.id), ConnectResponse, timeout=timeout)

    async def wait(self, exec_id: str) -> WaitResponse:
        """How a process ended, once it has; asked once however many wait, and known when the shim died, too.

        Raises NotFound for what isn't there, Unavailable when the daemon stops.
        """
        waiting = self._waits.get(exec_id)
        if waiting is None:
            waiting = asyncio.get_running_loop().create_task(self._wait(exec_id))
            self._waits[exec_id] = waiting
            waiting.add_done_callback(lambda done: self._waited(exec_id, done))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if waiting.cancelled():
                raise Unavailable("containerd is stopping: unavailable") from None
            raise

    def stop_waiting(self) -> None:
        """End every `wait` with Unavailable."""
        for waiting in list(self._waits.values()):
            waiting.cancel()

    async def _wait(self, exec_id: str) -> WaitResponse:
        try:
            return await self._call("Wait", WaitRequest(id=self.id, exec_id=exec_id), WaitResponse, None)
        except Closed:
            if not self.dismissed:
                await asyncio.shield(self.buried)
            return exit_response(self.ledger, self.id, exec_id)

    def _waited(self, exec_id: str, task: asyncio.Task[WaitResponse]) -> None:
        self._waits.pop(exec_id, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody does any more, that is no news

    def hang_up(self) -> None:
        """End the connection on purpose, and stop copying the log."""
        self.dismissed = True
        self.client.close()
        self.log.close()


def exit_response(ledger: Ledger, id: str, exec_id: str) -> WaitResponse:
    """The answer to a Wait after a shim's death. Raises NotFound for a process that it had not."""
    end = ledger.exit_of(exec_id)
    if end is None:
        raise gone(id)
    return WaitResponse(exit_status=end.status, exited_at=end.at)


def worded(error: Error, prefix: str = "") -> Error:
    """A shim's error as containerd passes it on: what has no class is called so at its end."""
    suffix = ": unknown" if type(error) is Error and not error.message.endswith(": unknown") else ""
    return type(error)(f"{prefix}{error.message}{suffix}")


def gone(id: str) -> NotFound:
    """The error for a task that isn't there, in containerd's words."""
    return NotFound(f"task {id} not found")
