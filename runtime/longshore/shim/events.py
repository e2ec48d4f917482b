"""Publishing events: given once, in order, to whichever transport leads to the daemon.

Our daemon takes an acknowledged stream (`exits.py`), any other the ttrpc
Forward call (`forward.py`). A transport promises order; the stream promises
also that nothing is lost, for which an event stands in a file of the bundle
until it is acknowledged:

    <bundle>/events    records of u32 BE length and a serialised ReportRequest,
                       written before the event is sent, cut to 0 once all of the
                       container's events are acknowledged

The daemon reads that file before it removes a bundle, and when a shim died.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from google.protobuf.message import Message

from longshore.api import typeurls
from longshore.api.services.exits.v1.exits_pb2 import ReportRequest
from longshore.api.types.event_pb2 import Envelope
from longshore.shim.loop import Promise

_LENGTH = struct.Struct(">I")


def envelope(namespace: str, topic: str, message: Message) -> Envelope:
    """An event, stamped now."""
    event = Envelope(namespace=namespace, topic=topic, event=typeurls.pack(message))
    event.timestamp.FromNanoseconds(time.time_ns())
    return event


class Journal:
    """One container's `events` file. It is made with the first record and outlives the bundle's path."""

    def __init__(self, bundle: str) -> None:
        self._path = f"{bundle}/events"
        self._fd = -1
        self._unacknowledged = 0
        self._closed = False

    def append(self, record: bytes) -> None:
        """Write a record (to the page cache: that outlives us, which is what it is for).

        Raises OSError (disk full) with the file as it was; the record counts as unacknowledged all the same.
        """
        self._unacknowledged += 1
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        data = _LENGTH.pack(len(record)) + record
        written = os.write(self._fd, data)
        if written < len(data):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, "event not kept", self._path)

    def acknowledge(self) -> None:
        """One more record is safe with the daemon."""
        self._unacknowledged -= 1
        if self._unacknowledged == 0 and self._fd >= 0:
            os.ftruncate(self._fd, 0)
            self._close_if_done()

    def close(self) -> None:
        """No more records will come."""
        self._closed = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closed and not self._unacknowledged and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Publisher(Protocol):
    """Where the shim's events go."""

    def publish(self, journal: Journal, topic: str, message: Message) -> None:
        """Take an event; it is delivered after all earlier ones. Never blocks."""

    def idle(self) -> bool:
        """Whether everything taken is delivered (or given up)."""

    def flushed(self) -> Promise[None]:
        """Settled when it is, for the first time from now."""


class _Pending(NamedTuple):
    sequence: int
    record: bytes
    journal: Journal


class Outbox:
    """Numbers events, and keeps them until they are acknowledged. No I/O but the journals'."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self.on_error = on_error
        self._namespace = ""
        self._instance = ""
        self._sequence = 0
        self._pending: deque[_Pending] = deque()
        self._flushed: Promise[None] | None = None

    def begin(self, namespace: str) -> None:
        """A shim's life begins: all its events are in `namespace`."""
        self._namespace = namespace
        self._instance = os.urandom(16).hex()

    def add(self, journal: Journal, topic: str, message: Message) -> bytes:
        """A new event, in its journal; the record to send."""
        self._sequence += 1
        request = ReportRequest(
            instance=self._instance,
            sequence=self._sequence,
            envelope=envelope(self._namespace, topic, message),
        )
        record = request.SerializeToString()
        self._pending.append(_Pending(self._sequence, record, journal))
        try:
            journal.append(record)
        except OSError as error:
            # It is sent all the same, and kept in memory until acknowledged; only our death would lose it.
            self.on_error(error)
        return record

    def unacknowledged(self) -> list[bytes]:
        """All records to send on a new connection, in order."""
        return [pending.record for pending in self._pending]

    def acknowledge(self, sequence: int) -> None:
        """Everything up to `sequence` is durable with the daemon."""
        while self._pending and self._pending[0].sequence <= sequence:
            self._pending.popleft().journal.acknowledge()
        if self._flushed is not None and not self._pending:
            self._flushed.resolve(None)

    def flushed(self) -> Promise[None]:
        """Settled when nothing is unacknowledged."""
        self._flushed = Promise()
        if not self._pending:
            self._flushed.resolve(None)
        return self._flushed

    def __len__(self) -> int:
        return len(self._pending)
