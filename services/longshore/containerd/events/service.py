"""The Events service. See README.md for how replay is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from typing import Final

from google.protobuf.empty_pb2 import Empty

from longshore.api import errors
from longshore.api.services.events.v1.events_pb2 import ForwardRequest, PublishRequest, SubscribeRequest
from longshore.api.services.events.v1.events_pb2_grpc import EventsServicer
from longshore.api.types.event_pb2 import Envelope
from longshore.containerd import rpc
from longshore.containerd.events.exchange import Exchange, validate
from longshore.containerd.metadata.store import Event
from longshore.containerd.times import nanoseconds, timestamp

# Request headers of Subscribe: events after this sequence, or since this time (unix nanoseconds), come first.
SINCE_SEQUENCE: Final = "longshore-since-sequence"
SINCE_TIME: Final = "longshore-since-time"
# In the initial metadata of the answer: the newest sequence at the moment of registration.
SEQUENCE: Final = "longshore-sequence"

# time.Time{} of a Go client: no time at all.
_GO_ZERO_TIME: Final = -62135596800


class EventsService(EventsServicer):
    """Publish in the caller's namespace, forward from elsewhere, subscribe to all namespaces."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @rpc.unary(mutates=True)
    async def Publish(self, request: PublishRequest, call: rpc.Call) -> Empty:
        try:
            namespace = call.namespace
        except errors.Error as error:
            raise type(error)(f"failed publishing event: {error.message}") from None
        validate(namespace, request.topic)
        if not request.HasField("event"):
            raise errors.InvalidArgument("event must be set: invalid argument")
        await self._exchange.publish(namespace, request.topic, request.event)
        return Empty()

    @rpc.unary(mutates=True)
    async def Forward(self, request: ForwardRequest, call: rpc.Call) -> Empty:
        envelope = request.envelope
        if not envelope.HasField("event"):
            raise errors.InvalidArgument("event must be set on forwarded event: invalid argument")
        if not envelope.HasField("timestamp") or envelope.timestamp.seconds == _GO_ZERO_TIME:
            raise errors.InvalidArgument("timestamp must be set on forwarded event: invalid argument")
        stamp = nanoseconds(envelope.timestamp)
        await self._exchange.publish(envelope.namespace, envelope.topic, envelope.event, timestamp_ns=stamp)
        return Empty()

    @rpc.server_stream
    async def Subscribe(self, request: SubscribeRequest, call: rpc.Call) -> AsyncGenerator[Envelope, None]:
        subscription = self._exchange.subscribe(
            request.filters,
            since_sequence=_number(call, SINCE_SEQUENCE),
            since_time_ns=_number(call, SINCE_TIME),
        )
        with closing(subscription):
            # Sent at once: with it a client knows that it is registered, and misses nothing from here on.
            await call.context.send_initial_metadata(((SEQUENCE, str(subscription.head)),))
            async with aclosing(subscription.events()) as events:
                async for event in events:
                    yield rpc.encoded(Envelope, encoded(event))


def encoded(event: Event) -> bytes:
    """The event's envelope as clients get it; the same bytes for every subscriber."""
    if not event.wire:
        envelope = Envelope(
            timestamp=timestamp(event.time_ns),
            namespace=event.namespace,
            topic=event.topic,
            event=event.event,
        )
        event.wire = envelope.SerializeToString()
    return event.wire


def _number(call: rpc.Call, header: str) -> int | None:
    text = call.header(header)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise errors.InvalidArgument(f"header {header}: {text!r} is not a number: invalid argument")
    return int(text)
