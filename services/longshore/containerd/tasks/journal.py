"""Task events into the journal, each of them once.

Three ways lead here, and an exit may come by more than one of them:

- a shim of ours reports on the exit stream (or left a report in its bundle):
  shim instance and sequence name the event for good;
- a Go shim forwards over ttrpc, and tries again for 15 s after a daemon died;
- the daemon itself finds out: at boot from a shim's State, or when a shim died.

So every exit is compared, in the transaction that would insert it, with the
exits of the same container: the same process with the same pid and time is the
same exit. What the daemon makes up for a dead shim has a time of its own; there
the same pid since the container was made is enough. "Since" is a place in the
journal and not a time: clocks are set back.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from longshore.api.errors import Error, InvalidArgument
from longshore.api.events.task_pb2 import TaskDelete, TaskExit
from longshore.api.services.exits.v1.exits_pb2 import ReportRequest
from longshore.api.types.event_pb2 import Envelope
from longshore.api.typeurls import pack
from longshore.containerd.events import journal as events
from longshore.containerd.events.exchange import validate
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.tasks.bundle import CONFIG, EVENTS, Bundle
from longshore.containerd.tasks.ledger import Exit
from longshore.containerd.times import nanoseconds, now

log = structlog.get_logger("tasks")

EXIT_TOPIC = "/tasks/exit"
DELETE_TOPIC = "/tasks/delete"
_LENGTH = struct.Struct(">I")
_REMEMBERED = 4096  # shims


class Life(NamedTuple):
    """Where a container's events begin: after a sequence, or, if nobody noted that (-1), from a time on."""

    sequence: int
    time_ns: int


_EVER = Life(-1, 0)


class Journal:
    """Writes task events; every method returns when they are durable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Shim instance -> up to which sequence its stream is durable; the oldest are forgotten.
        self._durable: dict[str, int] = {}

    def head(self) -> int:
        """The newest sequence."""
        return self._store.read(events.head)

    def has(self, report: ReportRequest) -> bool:
        """Whether a report came over its shim's stream and is durable; False also when we don't remember."""
        return report.sequence <= self._durable.get(report.instance, 0)

    async def report(self, reports: Sequence[ReportRequest]) -> None:
        """Journal what came over the stream of one shim, in order. Repeated reports are dropped.

        A report that can never be journalled (no namespace, no topic) is
        dropped with a log line: its shim would send it forever.
        """
        await self.left_behind(reports)
        instance = reports[-1].instance
        self._durable.pop(instance, None)
        self._durable[instance] = reports[-1].sequence
        if len(self._durable) > _REMEMBERED:
            del self._durable[next(iter(self._durable))]

    async def left_behind(self, reports: Sequence[ReportRequest]) -> None:
        """The same for reports found in a bundle: some of a group's, and so no word on those before them."""
        valid = [report for report in reports if _is_valid(report.envelope)]
        if valid:
            await self._store.write(lambda transaction: _insert_reports(transaction, valid), urgent=True)

    async def forward(self, envelope: Envelope) -> None:
        """Journal what a Go shim forwarded. Raises InvalidArgument for a malformed envelope."""
        check(envelope)
        await self._store.write(lambda transaction: _insert(transaction, envelope, None), urgent=True)

    async def found(self, namespace: str, container: str, exits: Sequence[Exit]) -> None:
        """Journal exits that shims remember, those that the journal lacks."""
        if exits:
            envelopes = [_exit_envelope(namespace, container, each) for each in exits]

            def insert(transaction: Transaction) -> None:
                for envelope in envelopes:
                    _insert(transaction, envelope, None)

            await self._store.write(insert, urgent=True)

    async def buried(
        self, namespace: str, container: str, since: Life, exits: Sequence[Exit], delete: TaskDelete
    ) -> None:
        """Journal, for a shim that died, the exits and the deletion that it did not report.

        Events of earlier containers of the same id, before `since`, don't count.
        """

        def insert(transaction: Transaction) -> None:
            known = [as_exit(event) for event in _exits(transaction, namespace, container, since)]
            for each in known:
                if not each.id:
                    delete.exit_status = each.status
                    delete.exited_at.CopyFrom(each.at)
            for each in exits:
                if not any(each.id == other.id and each.pid in (0, other.pid) for other in known):
                    _publish(transaction, _exit_envelope(namespace, container, each))
            if not _deleted(transaction, namespace, container, since):
                _publish(transaction, _envelope(namespace, DELETE_TOPIC, pack(delete)))

        await self._store.write(insert, urgent=True)


def check(envelope: Envelope) -> None:
    """Raise InvalidArgument unless the envelope has a valid namespace and topic, and a time."""
    validate(envelope.namespace, envelope.topic)
    if not envelope.HasField("timestamp"):
        raise InvalidArgument("timestamp must be set on forwarded event: invalid argument")


def reports_in(bundle: Bundle) -> list[ReportRequest]:
    """What a shim of ours wrote into its bundle and we have not acknowledged; [] without such a file.

    The last record may be cut short by a crash: then it was never sent, and
    ends the list.
    """
    try:
        with open(bundle.file(EVENTS), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return []
    return list(_records(data, bundle.id))


def life_began(bundle: Bundle) -> Life:
    """Where the events of a bundle's container begin; a bundle of another daemon's has the time alone."""
    try:
        sequence = bundle.read_bootstrap().journal
    except (OSError, Error):
        sequence = -1
    for path in (bundle.file(CONFIG), bundle.path):
        try:
            return Life(sequence, os.stat(path).st_mtime_ns)
        except OSError:
            continue
    return Life(sequence, 0)


def as_exit(event: TaskExit) -> Exit:
    """The exit that an event tells of; the container's own process has the id ""."""
    return Exit(_process(event, event.container_id), event.pid, event.exit_status, event.exited_at)


def _records(data: bytes, id: str) -> Iterable[ReportRequest]:
    offset = 0
    while offset + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, offset)
        start, offset = offset + _LENGTH.size, offset + _LENGTH.size + length
        if offset > len(data):
            return
        try:
            yield ReportRequest.FromString(data[start:offset])
        except DecodeError as error:
            log.error("unreadable report in bundle", container=id, error=str(error))
            return


def _is_valid(envelope: Envelope) -> bool:
    try:
        check(envelope)
    except Error as error:
        log.error("event dropped", topic=envelope.topic, namespace=envelope.namespace, error=error.message)
        return False
    return True


def _insert_reports(transaction: Transaction, reports: Sequence[ReportRequest]) -> None:
    for report in reports:
        source = (report.instance, report.sequence) if report.instance else None
        _insert(transaction, report.envelope, source)


def _insert(transaction: Transaction, envelope: Envelope, source: tuple[str, int] | None) -> None:
    if envelope.topic == EXIT_TOPIC and _is_known(transaction, envelope):
        return
    _publish(transaction, envelope, source)


def _publish(transaction: Transaction, envelope: Envelope, source: tuple[str, int] | None = None) -> None:
    transaction.publish(
        envelope.namespace,
        envelope.topic,
        envelope.event,
        time_ns=nanoseconds(envelope.timestamp),
        source=source,
    )


def _is_known(transaction: Transaction, envelope: Envelope) -> bool:
    try:
        event = TaskExit.FromString(envelope.event.value)
    except DecodeError:
        return False
    return any(
        (known.id, known.pid, known.exited_at) == (event.id, event.pid, event.exited_at)
        for known in _exits(transaction, envelope.namespace, event.container_id, _EVER, event.id)
    )


def _exits(
    transaction: Transaction, namespace: str, container: str, since: Life, process: str | None = None
) -> list[TaskExit]:
    column, value = _bound(since)
    rows = transaction.query(
        f"SELECT value FROM events WHERE namespace = ? AND container = ? AND topic = ? AND {column} >= ?"
        + ("" if process is None else " AND process = ?"),
        (namespace, container, EXIT_TOPIC, value, *(() if process is None else (process,))),
    )
    return [TaskExit.FromString(value) for (value,) in rows]


def _deleted(transaction: Transaction, namespace: str, container: str, since: Life) -> bool:
    column, value = _bound(since)
    row = transaction.one(
        f"SELECT 1 FROM events WHERE namespace = ? AND container = ? AND topic = ? AND {column} >= ?",
        (namespace, container, DELETE_TOPIC, value),
    )
    return row is not None


def _bound(since: Life) -> tuple[str, int]:
    """The column that `since` limits, and its least value."""
    return ("sequence", since.sequence + 1) if since.sequence >= 0 else ("journalled", since.time_ns)


def _process(event: TaskExit, container: str) -> str:
    return "" if event.id == container else event.id


def _exit_envelope(namespace: str, container: str, exit: Exit) -> Envelope:
    event = TaskExit(
        container_id=container,
        id=exit.id or container,
        pid=exit.pid,
        exit_status=exit.status,
        exited_at=exit.at,
    )
    return _envelope(namespace, EXIT_TOPIC, pack(event))


def _envelope(namespace: str, topic: str, event: Any) -> Envelope:
    return Envelope(timestamp=now(), namespace=namespace, topic=topic, event=event)
