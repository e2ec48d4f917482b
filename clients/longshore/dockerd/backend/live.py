"""A container in memory: its record, its lock, and everybody who waits for it.

Whatever changes a container holds its lock. A record changes by a draft: a
copy is edited, committed, and only then copied over what others see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from longshore.dockerd.backend.restart import Backoff
from longshore.dockerd.records import Container, EndpointSettings

if TYPE_CHECKING:
    from longshore.api.types.mount_pb2 import Mount
    from longshore.dockerd.backend.execs import Exec
    from longshore.dockerd.engine import Attachment

RUNNING = frozenset(("running", "paused"))
"""Statuses with a process."""
ALIVE = RUNNING | {"restarting"}
"""Statuses that the API calls "running"."""


class Outcome(NamedTuple):
    """What a wait answers."""

    exit_code: int
    error: str = ""


class Waiters:
    """Futures that one event answers, each time those that are there then."""

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[Outcome]] = set()

    def add(self) -> asyncio.Future[Outcome]:
        """Cancel it when nobody is interested any more."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def tell(self, outcome: Outcome) -> None:
        for future in list(self._futures):
            if not future.done():
                future.set_result(outcome)


@dataclass(eq=False)
class Live:
    record: Container
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stopped: Waiters = field(default_factory=Waiters)
    """Told at each exit, also when a policy brings it back."""
    removed: Waiters = field(default_factory=Waiters)
    attaching: set[asyncio.Future[Attachment | None]] = field(default_factory=set)
    """Clients that attached before the start: they get the stream before the first byte, None if it fails."""
    mounts: list[Mount] | None = None
    """Of its snapshot, which never change."""
    process: dict[str, Any] | None = None
    """The spec's process object while it runs: what an exec begins with."""
    execs: dict[str, Exec] = field(default_factory=dict)
    backoff: Backoff = field(default_factory=Backoff)
    coming_back: asyncio.Task[None] | None = None
    """Sleeps, then starts it, while it is "restarting"."""
    probing: asyncio.Task[None] | None = None
    """The health checks."""
    out_of_memory: bool = False
    kept: bool = False
    """Stopped only to be started again: not removed in between."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def has_process(self) -> bool:
        return self.record.state.status in RUNNING

    @property
    def alive(self) -> bool:
        return self.record.state.status in ALIVE

    def outcome(self) -> Outcome:
        return Outcome(self.record.state.exit_code)

    def draft(self) -> Container:
        """A copy to edit: state, networks and ports are its own."""
        record = self.record
        return msgspec.structs.replace(
            record,
            state=msgspec.structs.replace(record.state),
            host_config=msgspec.structs.replace(record.host_config),
            networks=copied(record.networks),
            ports=dict(record.ports),
        )

    def take(self, draft: Container) -> None:
        """The draft is durable: everybody sees it."""
        for name in draft.__struct_fields__:
            setattr(self.record, name, getattr(draft, name))

    def forget_tasks(self) -> None:
        for task in (self.coming_back, self.probing):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self.coming_back = self.probing = None

    def end_attaching(self, attachments: Iterable[Attachment] | None = None) -> None:
        """Nobody gets a stream: the start failed, or the container goes."""
        for future in list(self.attaching):
            if not future.done():
                future.set_result(None)


def copied(networks: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
    return {name: msgspec.structs.replace(endpoint) for name, endpoint in networks.items()}
