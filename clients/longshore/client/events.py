"""The event stream, live and, on a Longshore daemon, replayed.

containerd has no journal: it drops what nobody listens to. Longshore keeps
events for a while; `subscribe(since=...)` asks for them with a header that
the original ignores, so the same program runs on both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any

from longshore.api.services.events.v1 import events_pb2 as pb
from longshore.api.types.event_pb2 import Envelope
from longshore.api.typeurls import pack, type_name
from longshore.client.connection import Connection, translated
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from grpc import aio

    from longshore.api.services.events.v1.events_pb2_grpc import EventsAsyncStub

SINCE_SEQUENCE = "longshore-since-sequence"
SINCE_TIME = "longshore-since-time"
HEAD = "longshore-sequence"

_EVENT_MODULES = ("container", "content", "image", "namespace", "sandbox", "snapshot", "task")


def decode(event: Any) -> Message | None:
    """The message inside an event's Any; None for a type that nobody here knows."""
    from importlib import import_module

    from google.protobuf import symbol_database

    for module in _EVENT_MODULES:
        import_module(f"longshore.api.events.{module}_pb2")
    try:
        kind = symbol_database.Default().GetSymbol(type_name(event))
    except KeyError:
        return None
    message: Message = kind()
    message.ParseFromString(event.value)
    return message


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `time_ns` counts from the epoch; `message` decodes the payload (None if its type is unknown)."""

    time_ns: int
    namespace: str
    topic: str
    payload: Any

    @property
    def message(self) -> Message | None:
        return decode(self.payload)


def _event(envelope: Envelope) -> Event:
    stamp = envelope.timestamp
    return Event(
        stamp.seconds * 1_000_000_000 + stamp.nanos, envelope.namespace, envelope.topic, envelope.event
    )


class Subscription:
    """An open event stream: iterate it. It is live when `Events.subscribe` has returned.

    `head` is the journal's last sequence at that moment, None on a daemon
    without a journal.
    """

    def __init__(self, call: aio.UnaryStreamCall[pb.SubscribeRequest, Envelope], head: int | None) -> None:
        self._call = call
        self.head = head

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events()

    async def _events(self) -> AsyncIterator[Event]:
        with translated():
            async for envelope in self._call:
                yield _event(envelope)

    async def next(self) -> Event:
        """The next event. Raises StopAsyncIteration when the daemon ends the stream."""
        with translated():
            envelope = await self._call.read()
        if not isinstance(envelope, Envelope):
            raise StopAsyncIteration
        return _event(envelope)

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._call.cancel()


class Events:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: EventsAsyncStub = stub(pb.DESCRIPTOR, "Events", connection.channel)

    async def subscribe(
        self, *filters: str, since: int | None = None, since_time_ns: int | None = None
    ) -> Subscription:
        """Open a stream of the events of *all* namespaces that match any of the filters.

        `since` replays what has a greater sequence, `since_time_ns` what is
        not older; both need Longshore's journal. A Longshore daemon confirms
        the registration, so nothing that happens after this call is missed;
        the original sends its headers with the first event only, and is not
        waited for.
        """
        replay: list[tuple[str, str]] = []
        if since is not None:
            replay.append((SINCE_SEQUENCE, str(since)))
        if since_time_ns is not None:
            replay.append((SINCE_TIME, str(since_time_ns)))
        call = self._stub.Subscribe(
            pb.SubscribeRequest(filters=filters), metadata=(*self._connection.metadata, *replay)
        )
        return Subscription(call, await _registered(call))

    async def publish(self, topic: str, event: Message | Any) -> None:
        """Publish under the client's namespace, stamped by the daemon."""
        payload = event if isinstance(event, Any) else pack(event)
        await self._connection.call(self._stub.Publish, pb.PublishRequest(topic=topic, event=payload))


async def _registered(call: aio.UnaryStreamCall[pb.SubscribeRequest, Envelope]) -> int | None:
    """Wait for the initial metadata, which says that the subscription stands, at most a fraction of a second."""
    import asyncio

    waiting = asyncio.ensure_future(call.initial_metadata())
    with translated():
        done, _ = await asyncio.wait([waiting], timeout=0.25)
        if not done:
            return None
        headers = dict(waiting.result() or ())
    head = headers.get(HEAD)
    return int(head) if head is not None else None
