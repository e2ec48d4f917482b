"""The exchange: every event goes through here, into the journal and out to subscribers.

An event is durable before its publisher is answered, and before any subscriber
sees it. A subscriber is a cursor into the journal. Whether it replays from last
week or follows live makes no difference: it reads what comes after its cursor,
from memory while it keeps up and from the database when it doesn't. So there
is no gap between replay and live, and a client that stalls costs no memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import structlog
from google.protobuf.message import Message

from longshore.api import errors
from longshore.api.namespaces import validate_identifier
from longshore.containerd import filters as filtering
from longshore.containerd.events import fields, journal, subscriptions
from longshore.containerd.events.subscriptions import SubscriptionFile
from longshore.containerd.metadata.store import Event, Store

log = structlog.get_logger("events")

# Subscribers less far behind than this are served from memory.
RECENT: Final = 4096
PAGE: Final = 512

# For so long after a start, a subscription equal to one that was open at the end is its continuation.
RESUME_SECONDS: Final = 60.0

_PRUNE_EVERY: Final = 1000
TASKS: Final = "/tasks/"


class Exchange:
    """Publish and subscribe; one per daemon. `left_open` of the file says who may resume."""

    def __init__(self, store: Store, file: SubscriptionFile) -> None:
        self._store = store
        self._file = file
        self._recent: deque[Event] = deque(maxlen=RECENT)
        self.head = store.read(journal.head)
        self._changed = asyncio.Event()
        self._started = time.monotonic()
        self._since_prune = 0
        self._background: set[asyncio.Task[None]] = set()
        self.closing = False
        store.on_events(self._deliver)

    # -- in --

    async def publish(
        self, namespace: str, topic: str, event: Message, *, timestamp_ns: int | None = None
    ) -> None:
        """Journal an event (a message or an Any) and send it out; returns when it is durable.

        The time is now unless given. Raises InvalidArgument for a bad topic or namespace.
        """
        validate(namespace, topic)
        await self._store.write(
            lambda transaction: transaction.publish(namespace, topic, event, time_ns=timestamp_ns)
        )

    # -- out --

    def subscribe(
        self, filters: Sequence[str], *, since_sequence: int | None = None, since_time_ns: int | None = None
    ) -> Subscription:
        """Follow events; registered when this returns. Close it in the end. Raises InvalidArgument.

        With a sequence, events after it come first; with a time, those that
        happened at it or later. Otherwise only new events come, except to the
        continuation of a subscription that was open when the daemon ended: the
        task events that it missed come first.
        """
        test = _compiled(filters)
        key = subscriptions.digest(filters)
        missed = self._missed_by(key)
        cursor, tasks_until = self.head, 0
        if since_sequence is not None:
            cursor = min(since_sequence, self.head)
        elif since_time_ns is not None:
            cursor = self._store.read(lambda connection: journal.before_time(connection, since_time_ns))
        elif missed is not None:
            cursor, tasks_until = min(missed, self.head), self.head
        slot = self._file.take(key, cursor)
        if slot is None:
            log.warning("too many subscriptions: this one won't be continued after a restart")
        return Subscription(self, test, cursor, tasks_until, since_time_ns or 0, slot)

    def _missed_by(self, key: bytes) -> int | None:
        sequences = self._file.left_open.get(key)
        if not sequences or time.monotonic() - self._started > RESUME_SECONDS:
            return None
        return sequences.pop(0)

    async def after(self, cursor: int) -> list[Event]:
        """Events that follow `cursor`, at least one; waits for them. Raises Unavailable when the daemon stops."""
        while cursor >= self.head:
            if self.closing:
                raise errors.Unavailable("containerd is stopping: unavailable")
            await self._changed.wait()
        return self._from_memory(cursor) or await self._store.read_in_thread(
            lambda connection: journal.after(connection, cursor, PAGE)
        )

    def _from_memory(self, cursor: int) -> list[Event]:
        if not self._recent or cursor < self._recent[0].sequence - 1:
            return []
        # Sequences have no gaps, so that an index is a subtraction.
        start = cursor + 1 - self._recent[0].sequence
        return [self._recent[index] for index in range(start, min(start + PAGE, len(self._recent)))]

    # -- after each commit --

    def _deliver(self, events: list[Event]) -> None:
        self._recent.extend(events)
        self.head = events[-1].sequence
        self._wake()
        self._since_prune += len(events)
        if self._since_prune >= _PRUNE_EVERY:
            self._since_prune = 0
            task = asyncio.get_running_loop().create_task(self.prune())
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def prune(self) -> None:
        """Keep the journal within its bounds."""
        try:
            await self._store.write(journal.prune, urgent=True)
        except errors.Error as error:  # tried again after the next thousand events
            log.warning("could not prune the event journal", error=error.message)

    def end_subscriptions(self) -> None:
        """The daemon stops: streams end, but their slots stay, for the clients will be back."""
        self.closing = True
        self._wake()


class Subscription:
    """An ordered, gapless view of the events that pass a filter. Iterate it once, and close it."""

    def __init__(
        self,
        exchange: Exchange,
        test: filtering.Filter,
        cursor: int,
        tasks_until: int,
        since_time_ns: int,
        slot: subscriptions.Slot | None,
    ) -> None:
        self._exchange = exchange
        self._test = test
        self._cursor = cursor
        self._tasks_until = tasks_until
        self._since_time_ns = since_time_ns
        self._slot = slot
        self.head = exchange.head

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield events for ever. Asking for the next one says that the last is on its way to the client."""
        while True:
            for event in await self._exchange.after(self._cursor):
                if self._wanted(event):
                    yield event
                self._cursor = event.sequence
                if self._slot is not None:
                    self._slot.delivered(event.sequence)

    def _wanted(self, event: Event) -> bool:
        if event.sequence <= self._tasks_until and not event.topic.startswith(TASKS):
            return False
        return event.time_ns >= self._since_time_ns and self._test(fields.lookup(event))

    def close(self) -> None:
        """The client has left."""
        if self._slot is not None and not self._exchange.closing:
            self._slot.release()
        self._slot = None


def _compiled(filters: Sequence[str]) -> filtering.Filter:
    try:
        return filtering.compile(filters)
    except errors.InvalidArgument as error:
        text = f"subscription error: failed parsing subscription filters: {error.message}"
        raise errors.InvalidArgument(text) from None


def validate(namespace: str, topic: str) -> None:
    """Raise InvalidArgument for what may not be published."""
    try:
        validate_identifier(namespace)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"event envelope has invalid namespace: {error.message}") from None
    try:
        _validate_topic(topic)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f'envelope topic "{topic}": {error.message}') from None


def _validate_topic(topic: str) -> None:
    if not topic:
        raise errors.InvalidArgument("must not be empty: invalid argument")
    if not topic.startswith("/"):
        raise errors.InvalidArgument("must start with '/': invalid argument")
    if topic == "/":
        raise errors.InvalidArgument("must have at least one component: invalid argument")
    for component in topic[1:].split("/"):
        try:
            validate_identifier(component)
        except errors.InvalidArgument as error:
            text = f'failed validation on component "{component}": {error.message}'
            raise errors.InvalidArgument(text) from None
