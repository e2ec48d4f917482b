"""Answers to List calls, kept as the bytes that go out for as long as the rows that they were made of stay as they are.

Whether they did is told by SQLite itself: triggers of the writer's connection,
the only one that writes, see each row that comes, changes or goes, whoever
wrote the statement.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import OrderedDict
from typing import Final, NamedTuple

# Tables whose records are listed.
LISTED: Final = ("containers", "images", "leases", "sandboxes")

# Bytes and number of the answers that are kept, and for how many seconds without being asked for. The largest
# answer that clients take by default is 16 MiB.
MOST_BYTES: Final = 16 << 20
MOST: Final = 64
KEPT_FOR: Final = 30.0

_CHANGED: Final = "longshore_changed"


class Changes:
    """How often each table of `LISTED` may have changed; used by the writer's thread and by readers."""

    def __init__(self, writer: sqlite3.Connection) -> None:
        self._versions = dict.fromkeys(LISTED, 0)
        self._under_way: set[str] = set()
        writer.execute(
            "PRAGMA temp_store = MEMORY"
        )  # the triggers are a temporary schema, and disks may be full
        writer.create_function(_CHANGED, 1, self._under_way.add)
        for table in LISTED:
            for verb in ("INSERT", "UPDATE", "DELETE"):
                writer.execute(
                    f"CREATE TEMP TRIGGER {table}_{verb.lower()} AFTER {verb} ON main.{table}"
                    f" BEGIN SELECT {_CHANGED}('{table}'); END"
                )

    def settle(self) -> None:
        """The transaction has ended, well or badly: what it touched is readable now."""
        for table in list(self._under_way):
            self._versions[table] += 1
            self._under_way.discard(table)

    def stamp(self, table: str) -> int | None:
        """Equal before and after a read, it shows that every committed row was seen; None while one changes."""
        return None if table in self._under_way else self._versions[table]


Key = tuple[object, ...]


class _Answer(NamedTuple):
    data: bytes
    stamp: int
    used: float


class Answers:
    """Encoded answers by table and what else they depend on; used on the event loop alone."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._kept: OrderedDict[tuple[str, Key], _Answer] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self.size = 0
        """Bytes of all that are kept."""

    def stamp(self, table: str) -> int | None:
        """To be taken before the read, and given to `keep`."""
        return self._changes.stamp(table)

    def get(self, table: str, key: Key) -> bytes | None:
        """The answer, if no row of `table` has changed since."""
        answer = self._kept.get((table, key))
        if answer is None or answer.stamp != self._changes.stamp(table):
            return None
        self._kept[table, key] = answer._replace(used=time.monotonic())
        self._kept.move_to_end((table, key))
        return answer.data

    def keep(self, table: str, key: Key, data: bytes, stamp: int | None) -> None:
        """Remember it, unless the rows changed since `stamp`; for that the oldest others may have to go."""
        self._drop(table, key)
        if stamp is None or stamp != self._changes.stamp(table) or len(data) > MOST_BYTES:
            return
        self._kept[table, key] = _Answer(data, stamp, time.monotonic())
        self.size += len(data)
        while self.size > MOST_BYTES or len(self._kept) > MOST:
            self._drop(*next(iter(self._kept)))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEPT_FOR, self.forget_unused)

    def forget_unused(self) -> None:
        """Drop what nobody asked for lately, or can't be asked for any more."""
        self._timer = None
        oldest = time.monotonic() - KEPT_FOR
        for (table, key), answer in list(self._kept.items()):
            if answer.used <= oldest or answer.stamp != self._changes.stamp(table):
                self._drop(table, key)
        if self._kept:
            self._timer = asyncio.get_running_loop().call_later(KEPT_FOR, self.forget_unused)

    def _drop(self, table: str, key: Key) -> None:
        answer = self._kept.pop((table, key), None)
        if answer is not None:
            self.size -= len(answer.data)
