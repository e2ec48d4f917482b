"""The exit stream: events to our own daemon, re-sent until its journal has them.

One connection and one stream of longshore.exits.v1.Exits/Report for as long as
both sides live. When it breaks, whatever the reason, we come again with a
back-off of 20 ms to 1 s, for ever, and send everything unacknowledged first;
the daemon tells duplicates by (instance, sequence).
"""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from longshore.api.services.exits.v1.exits_pb2 import ReportResponse
from longshore.shim.events import Journal, Outbox
from longshore.shim.http2 import Closed, GrpcStream
from longshore.shim.loop import Loop, Promise
from longshore.shim.peer import Peer

METHOD = "/longshore.exits.v1.Exits/Report"
FIRST_DELAY = 0.02
LAST_DELAY = 1.0


class ExitStream(Peer):
    """A `Publisher` to a daemon's gRPC socket."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self._outbox = Outbox(lambda error: loop.on_error(error))
        self._stream: GrpcStream | None = None
        self._delay = FIRST_DELAY
        self._retired = False

    def begin(self, address: str, namespace: str) -> None:
        """Connect, now and for as long as we live."""
        self._outbox.begin(namespace)
        self.address(address)
        self.connect()

    def publish(self, journal: Journal, topic: str, message: Message) -> None:
        record = self._outbox.add(journal, topic, message)
        if self._stream is not None:
            self._stream.send(record)
            self.write(self._stream.take())

    def idle(self) -> bool:
        return not self._outbox

    def flushed(self) -> Promise[None]:
        return self._outbox.flushed()

    def opened(self) -> None:
        self._stream = GrpcStream(METHOD)
        for record in self._outbox.unacknowledged():
            self._stream.send(record)
        self.write(self._stream.take())

    def received(self, data: bytes) -> None:
        assert self._stream is not None
        try:
            for message in self._stream.receive(data):
                self._outbox.acknowledge(ReportResponse.FromString(message).acknowledged)
                # Only an acknowledgement proves a daemon that takes the stream.
                self._delay = FIRST_DELAY
        except (Closed, DecodeError) as error:
            self.drop(str(error))
            return
        self.write(self._stream.take())

    def retire(self) -> None:
        """Hang up for good."""
        self._retired = True
        self.drop("retired")

    def lost(self, reason: str) -> None:
        self._stream = None
        if self._retired:
            return
        self.loop.later(self._delay, self.connect)
        self._delay = min(self._delay * 2, LAST_DELAY)
