"""Reading and bounding the journal: the `events` table (see `metadata.schema`).

Writing is `Transaction.publish`, so that an event and what it tells of are one
transaction.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from google.protobuf.any_pb2 import Any

from longshore.containerd.metadata.store import Event, Row, Transaction

# What is kept: enough for a client that was away over a weekend, and never more than about 100 MB.
MAX_EVENTS: Final = 100_000
MAX_AGE_NS: Final = 7 * 24 * 3600 * 1_000_000_000
# However old they seem: a clock that jumps forward must not take what clients have yet to hear of.
MIN_EVENTS: Final = 1000

_COLUMNS: Final = "sequence, time, namespace, topic, type_url, value"


def head(connection: sqlite3.Connection) -> int:
    """The newest sequence; 0 before the first event."""
    (sequence,) = connection.execute("SELECT max(sequence) FROM events").fetchone()
    return sequence or 0


def after(connection: sqlite3.Connection, sequence: int, limit: int) -> list[Event]:
    """Up to `limit` events that follow `sequence`."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit)
    )
    return [_event(row) for row in rows]


def before_time(connection: sqlite3.Connection, time_ns: int) -> int:
    """The sequence after which everything that was journalled at `time_ns` or later follows."""
    (sequence,) = connection.execute(
        "SELECT min(sequence) FROM events WHERE journalled >= ?", (min(time_ns, 2**63 - 1),)
    ).fetchone()
    return head(connection) if sequence is None else sequence - 1


def prune(transaction: Transaction) -> int:
    """Drop what is too old or too much, but never the newest rows; the number of rows dropped."""
    row = transaction.one("SELECT max(sequence) FROM events")
    newest: int = row[0] if row and row[0] else 0
    dropped = transaction.execute("DELETE FROM events WHERE sequence <= ?", (newest - MAX_EVENTS,))
    return dropped + transaction.execute(
        "DELETE FROM events WHERE journalled < ? AND sequence <= ?",
        (time.time_ns() - MAX_AGE_NS, newest - MIN_EVENTS),
    )


def _event(row: Row) -> Event:
    sequence, time_ns, namespace, topic, type_url, value = row
    return Event(sequence, time_ns, namespace, topic, Any(type_url=type_url, value=value))
