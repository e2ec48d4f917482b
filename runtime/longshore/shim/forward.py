"""Events to a containerd that knows no exit stream: ttrpc Events/Forward, as Go shims do.

One event at a time, so that a retry never overtakes: like theirs, a failed one
is tried five times more, after 1, 2, 3, 4 and 5 seconds, then dropped; unlike
theirs, the later ones wait for it.
"""

from __future__ import annotations

from collections import deque

from google.protobuf.message import Message

from longshore.api import namespaces
from longshore.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
from longshore.shim.events import Journal, envelope
from longshore.shim.loop import Loop, Promise, Timer
from longshore.shim.peer import Peer
from longshore.ttrpc.client import Calls

SERVICE = "containerd.services.events.ttrpc.v1.Events"
TIMEOUT_SECONDS = 5.0
RETRIES = 5
RETRY_SECONDS = 1.0
QUEUE_LIMIT = 2048


class Forwarder(Peer):
    """A `Publisher` to a daemon's ttrpc socket."""

    def __init__(self, loop: Loop, address: str, namespace: str) -> None:
        super().__init__(loop)
        self.address(address)
        self._namespace = namespace
        self._queue: deque[bytes] = deque()
        self._failures = 0
        self._calls: Calls | None = None
        self._deadline: Timer | None = None
        self._pausing = False
        self._flushed: Promise[None] | None = None
        self.dropped = 0

    def publish(self, journal: Journal, topic: str, message: Message) -> None:
        request = ForwardRequest(envelope=envelope(self._namespace, topic, message))
        if len(self._queue) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        self._queue.append(request.SerializeToString())
        self._next()

    def idle(self) -> bool:
        return not self._queue

    def flushed(self) -> Promise[None]:
        self._flushed = Promise()
        if not self._queue:
            self._flushed.resolve(None)
        return self._flushed

    def opened(self) -> None:
        self._calls = Calls()
        self._send()

    def received(self, data: bytes) -> None:
        assert self._calls is not None
        for result in self._calls.receive(data):
            self._settle()
            if result.error is None:
                self._done()
            else:
                self._failed()

    def lost(self, reason: str) -> None:
        self._calls = None
        waiting = self._deadline is not None
        self._settle()
        # A daemon that goes away between events is nobody's failure.
        if waiting or self._queue:
            self._failed()

    def _next(self) -> None:
        if not self._queue or self._pausing or self._deadline is not None:
            return
        if self.connected:
            self._send()
        else:
            self.connect()

    def _send(self) -> None:
        if not self._queue or self._deadline is not None:
            return
        assert self._calls is not None
        metadata = {namespaces.TTRPC_HEADER: [self._namespace]}
        _, data = self._calls.send(
            SERVICE, "Forward", self._queue[0], timeout=TIMEOUT_SECONDS, metadata=metadata
        )
        self._deadline = self.loop.later(TIMEOUT_SECONDS, self._timed_out)
        self.write(data)

    def _timed_out(self) -> None:
        # A late answer would be taken for the next event's: a new connection can't confuse them.
        self.drop("no answer in time")

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _done(self) -> None:
        self._queue.popleft()
        self._failures = 0
        if self._flushed is not None and not self._queue:
            self._flushed.resolve(None)
        self._next()

    def _failed(self) -> None:
        self._failures += 1
        if self._failures > RETRIES:
            self.dropped += 1
            self._done()
            return
        self._pausing = True
        self.loop.later(self._failures * RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._pausing = False
        self._next()
