"""What containerd tells: the stream of task events, and the list of tasks when there was a gap in it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import structlog

from longshore.api.errors import Error, NotFound
from longshore.api.events import task_pb2 as events
from longshore.api.types.task import task_pb2
from longshore.client.tasks import Task
from longshore.dockerd.backend.exits import Exit, Exits
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from longshore.client.events import Event, Subscription
    from longshore.client.tasks import State
    from longshore.dockerd.backend.execs import Execs

log = structlog.get_logger("dockerd.monitor")

RETRY_SECONDS = 0.1
LONGEST_RETRY = 2.0
REPLAY_SECONDS = 10.0
MARK = "/longshore/dockerd/mark"
LOST = 255
"""The exit code of a container whose task vanished and left no word."""


Missed: TypeAlias = Mapping[tuple[str, int], Exit]
"""Exits by container and pid that were told while nobody listened."""

Reconcile: TypeAlias = Callable[[Mapping[str, "State"], Missed], Awaitable[None]]
"""Is given containerd's tasks by id, and the exits of those that are not among them."""


def nanoseconds(stamp: Timestamp) -> int:
    return max(0, stamp.seconds * 1_000_000_000 + stamp.nanos)


class Monitor:
    """`start` returns when the stream stands; from then on each exit is handled once, in the order of its container."""

    def __init__(self, parts: Parts, exits: Exits, execs: Execs) -> None:
        self._parts, self._exits, self._execs = parts, exits, execs
        self._running: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._seen_ns = 0

    async def start(self, reconcile: Reconcile) -> None:
        """Subscribe, reconcile, then follow; the first failure is raised, later ones are tried again."""
        since = min((live.record.state.started_ns for live in self._parts.registry if live.alive), default=0)
        subscription = await self._subscribe(since)
        try:
            await reconcile(*await self._known(subscription))
        except BaseException:
            subscription.close()
            raise
        self._running = asyncio.create_task(self._run(subscription))

    async def close(self) -> None:
        tasks = [task for task in (self._running, *self._working) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _subscribe(self, since_ns: int) -> Subscription:
        """A daemon with a journal tells again what happened since then; what is known already is ignored."""
        client = self._parts.client
        filters = (f"namespace=={client.namespace},topic~=|^/tasks/|", f'topic=="{MARK}"')
        return await client.events.subscribe(*filters, since_time_ns=since_ns or time.time_ns())

    async def _known(self, subscription: Subscription) -> tuple[Mapping[str, State], Missed]:
        """Containerd's tasks, and the exits of those that it has no more.

        A task whose shim died a moment ago is in no list, and its exit may not be told yet: Wait tells it.
        """
        missed = await self._replayed(subscription)
        asked: set[tuple[str, int]] = set()
        while True:
            tasks = {task.id: task for task in await self._parts.client.tasks.list()}
            alive = [live for live in self._parts.registry if live.has_process and live.id not in tasks]
            gone = {(live.id, live.record.state.pid) for live in alive} - missed.keys() - asked
            if not gone:
                return tasks, missed
            waited = await asyncio.gather(*(self._waited(*each) for each in gone))
            asked |= gone
            missed |= {key: exit for key, exit in zip(gone, waited, strict=True) if exit is not None}
            missed |= await self._replayed(subscription)

    async def _waited(self, id: str, pid: int) -> Exit | None:
        """How a task ended that has just gone, if containerd still says it; None for one that has just come."""
        task = Task(self._parts.client.tasks, id)
        with suppress(NotFound):
            await task.state()
            return None
        with suppress(NotFound, TimeoutError):
            async with asyncio.timeout(REPLAY_SECONDS):
                return Exit(pid, *await task.wait())
        return None

    async def _replayed(self, subscription: Subscription) -> dict[tuple[str, int], Exit]:
        """Exits that the journal tells of; a mark of our own shows where it ends. Nothing without a journal."""
        if subscription.head is None:
            return {}
        found: dict[tuple[str, int], Exit] = {}
        token = secrets.token_hex(8)
        await self._parts.client.events.publish(MARK, events.TaskOOM(container_id=token))
        with suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(REPLAY_SECONDS):
                while True:
                    message = (await subscription.next()).message
                    if isinstance(message, events.TaskOOM) and message.container_id == token:
                        break
                    if isinstance(message, events.TaskExit) and message.id == message.container_id:
                        found[message.container_id, message.pid] = _exit(message)
        return found

    async def _run(self, subscription: Subscription) -> None:
        while True:
            try:
                while True:
                    event = await subscription.next()
                    self._seen_ns = event.time_ns
                    self._handle(event)
            except (Error, StopAsyncIteration) as error:
                log.info("containerd's events ended", error=str(error))
            except Exception:
                log.exception("an event could not be handled")
            subscription = await self._again()

    async def _again(self) -> Subscription:
        delay = RETRY_SECONDS
        while True:
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY)
            with suppress(Error):
                subscription = await self._subscribe(self._seen_ns)
                try:
                    await self.reconcile(*await self._known(subscription))
                except BaseException:
                    subscription.close()
                    raise
                return subscription

    # -- events

    def _handle(self, event: Event) -> None:
        kind = event.topic.removeprefix("/tasks/")
        if kind not in ("exit", "oom"):
            return
        message = event.message
        if isinstance(message, events.TaskOOM):
            self._out_of_memory(message.container_id)
        elif isinstance(message, events.TaskExit):
            exit = _exit(message)
            live = self._parts.registry.get(message.container_id)
            if message.id and message.id != message.container_id:
                self._spawn(self._execs.ended(live, message.container_id, message.id, exit))
            elif live is not None:
                self._spawn(self._exits.ended(live, exit))

    def _out_of_memory(self, id: str) -> None:
        live = self._parts.registry.get(id)
        if live is not None and live.has_process:
            live.out_of_memory = True
            self._parts.publish(live, "oom")

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except Exception:
                log.exception("an exit could not be handled")

        task = asyncio.create_task(run())
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    # -- after a gap

    async def reconcile(self, found: Mapping[str, State], missed: Missed) -> None:
        """Compare what should run with what does. Raises Unavailable while containerd is not there."""
        for live in self._parts.registry:
            if live.has_process and exit_of(live, found.get(live.id), missed) is not None:
                self._spawn(self._look_again(live, live.record.state.pid, missed))

    async def _look_again(self, live: Live, pid: int, missed: Missed) -> None:
        """The list may be older than a start that has just been recorded; what is asked for now isn't."""
        try:
            task: State | None = await Task(self._parts.client.tasks, live.id).state()
        except NotFound:
            task = None
        if live.record.state.pid == pid and (exit := exit_of(live, task, missed)) is not None:
            await self._exits.ended(live, exit._replace(pid=pid))


def _exit(message: events.TaskExit) -> Exit:
    return Exit(message.pid, message.exit_status, nanoseconds(message.exited_at))


def exit_of(live: Live, task: State | None, missed: Missed) -> Exit | None:
    """None while it runs."""
    pid = live.record.state.pid
    if task is None:  # somebody else deleted it, perhaps containerd itself after its shim died
        return missed.get((live.id, pid)) or Exit(pid, LOST, time.time_ns())
    if task.status == task_pb2.STOPPED:
        return Exit(task.pid, task.exit_status, nanoseconds(task.exited_at))
    return None
