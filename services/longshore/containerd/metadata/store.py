"""The metadata database: many readers, one writer thread, one fsync for whoever is waiting.

`Store.write` queues a function; the writer thread takes all that is queued,
runs each in a SAVEPOINT of its own inside one transaction, commits, and only
then lets the callers go on. So

- an answer to a client always follows a durable commit;
- a function sees the effects of those queued before it;
- an exception undoes its own function and nothing else, and reaches its caller;
- a failed COMMIT (disk full) fails the members of that transaction and nothing
  else: the next one starts afresh;
- what must get through on a full disk (deletions, exits: `urgent`) is tried once
  more after a reserve has been given up.

A function that runs in `write` touches the database and values of its own,
nothing in memory that others see: it may be undone after it returned, and run
a second time. What
must follow a commit goes into `Transaction.after_commit`. The schema is
documented in `schema`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from longshore.api import errors
from longshore.api.events.task_pb2 import TaskDelete, TaskExit
from longshore.api.typeurls import pack, type_name
from longshore.containerd.metadata import schema
from longshore.containerd.metadata.answers import Answers, Changes

log = structlog.get_logger("metadata")

T = TypeVar("T")
Parameter = str | bytes | int | float | None
Row = tuple[Any, ...]

# One transaction takes at most this many functions: bounds what a failed COMMIT takes with it, and the wait.
MAX_BATCH: Final = 512

# Disk space kept for urgent writes. It must hold the pages that a checkpoint moves from a full log into the
# database; after that the log is written from its start, in place.
RESERVE_BYTES: Final = 2 << 20
_CHECKPOINT_PAGES: Final = 256  # of 4 KiB
_RESERVE_PAUSE: Final = 5.0  # seconds

_READERS: Final = 4
_ENDINGS: Final[dict[str, type[TaskExit | TaskDelete]]] = {
    kind.DESCRIPTOR.full_name: kind for kind in (TaskExit, TaskDelete)
}


@dataclass(slots=True)
class Event:
    """A row of the journal: what a subscriber gets, and its place in the order."""

    sequence: int
    time_ns: int
    namespace: str
    topic: str
    event: AnyMessage
    wire: bytes = field(default=b"", compare=False, repr=False)  # the envelope, once somebody wanted it


class Transaction:
    """What a function given to `Store.write` works with; valid until that function returns."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._after: list[Callable[[], None]] = []
        self._events: list[Event] = []
        self._mutations = 0
        self._deletions = 0

    def execute(self, sql: str, parameters: Sequence[Parameter] = ()) -> int:
        """Run a statement; the number of rows it changed."""
        return self._connection.execute(sql, parameters).rowcount

    def query(self, sql: str, parameters: Sequence[Parameter] = ()) -> list[Row]:
        """All rows of a SELECT."""
        return self._connection.execute(sql, parameters).fetchall()

    def one(self, sql: str, parameters: Sequence[Parameter] = ()) -> Row | None:
        """The first row of a SELECT, or None."""
        row: Row | None = self._connection.execute(sql, parameters).fetchone()
        return row

    def using(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Let a function that reads work in this transaction, as it does in `Store.read`."""
        return function(self._connection)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the event loop once this is durable, before the caller of `write` goes on."""
        self._after.append(callback)

    def changed(self, *, deleted: bool) -> None:
        """Tell garbage collection that an object changed; `deleted`: others may be garbage now."""
        self._mutations += 1
        self._deletions += deleted

    # -- helpers shared by the nouns --

    def ensure_namespace(self, namespace: str) -> None:
        """Namespaces spring into existence with the first write."""
        self.execute("INSERT INTO namespaces (name) VALUES (?) ON CONFLICT DO NOTHING", (namespace,))

    def lease_resource(self, namespace: str, lease: str, kind: str, id: str) -> None:
        """Let `lease` hold a resource; nothing happens when `lease` is "". Raises NotFound if it is unknown.

        `kind` is content, ingests, images or snapshots/<snapshotter>.
        """
        if not lease:
            return
        if self.one("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, lease)) is None:
            raise errors.NotFound("lease does not exist: not found")
        self.execute(
            "INSERT INTO lease_resources VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (namespace, lease, kind, id),
        )

    def unlease_resource(self, namespace: str, lease: str, kind: str, id: str) -> None:
        """Take a resource from one lease; harmless when it isn't there or `lease` is ""."""
        self.execute(
            "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
            (namespace, lease, kind, id),
        )

    def publish(
        self,
        namespace: str,
        topic: str,
        message: Message,
        *,
        time_ns: int | None = None,
        source: tuple[str, int] | None = None,
    ) -> bool:
        """Journal an event in this transaction; subscribers get it after the commit.

        `message` is an event or an Any. With `source` = (shim instance, its
        sequence) a repeated event is dropped, and the answer is False.
        """
        packed = message if isinstance(message, AnyMessage) else pack(message)
        now = time.time_ns()
        stamp = now if time_ns is None else time_ns
        instance, number = source or (None, None)
        sequence = self._connection.execute(
            "INSERT INTO events (journalled, time, namespace, topic, type_url, value, container, process,"
            " instance, instance_sequence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (instance, instance_sequence) WHERE instance IS NOT NULL DO NOTHING RETURNING sequence",
            (now, stamp, namespace, topic, packed.type_url, packed.value, *_ended(packed), instance, number),
        ).fetchone()
        if sequence is None:
            return False
        self._events.append(Event(sequence[0], stamp, namespace, topic, packed))
        return True


def _ended(event: AnyMessage) -> tuple[str | None, str | None]:
    """Container and process of a /tasks/exit or /tasks/delete event: the kinds that recovery looks up again."""
    kind = _ENDINGS.get(type_name(event))
    if kind is None:
        return None, None
    try:
        ended = kind.FromString(event.value)
    except Exception:  # a malformed event is journalled all the same
        return None, None
    return ended.container_id, ended.id


@dataclass(slots=True)
class _Write:
    function: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    urgent: bool
    transaction: Transaction | None = None
    result: Any = None
    error: BaseException | None = None


class Store:
    """The database at `path`, made or migrated as needed. Used from one event loop.

    Raises errors.FailedPrecondition for a file that isn't ours, is damaged, or is newer than this program.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._writer_connection = _connect(path)
            _prepare(self._writer_connection, path)
            self._changes = Changes(self._writer_connection)
            self._reader_connection = _connect(path, read_only=True)
        except sqlite3.DatabaseError as error:
            raise _unusable(path, error) from None
        self.answers = Answers(self._changes)
        self._reserve = _Reserve(path.with_name(path.name + "-reserve"))
        self._queue: deque[_Write] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._listeners: list[Callable[[list[Event]], None]] = []
        self._change_listeners: list[Callable[[int, int], None]] = []
        self._thread_readers: set[sqlite3.Connection] = set()
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(_READERS, "metadata-read")
        self._writer = threading.Thread(target=self._write_forever, name="metadata-write", daemon=True)
        self._writer.start()

    # -- the public side, on the event loop --

    async def write(self, function: Callable[[Transaction], T], *, urgent: bool = False) -> T:
        """Run `function` in the writer thread; its result, once that is durable.

        `urgent` is for what must work on a full disk: deletions, and exits.

        Raises what `function` raises. Raises ResourceExhausted when the disk is
        full and Unavailable when the database can't be written or is closed; in
        both cases nothing of it was kept. A caller that is cancelled doesn't
        undo a queued function.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._wake:
            if self._closing:
                raise errors.Unavailable("metadata store is closed: unavailable")
            self._queue.append(_Write(function, future, urgent))
            self._wake.notify()
        return await future

    def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a short, indexed query right here on the loop; sees every committed write."""
        try:
            return function(self._reader_connection)
        except BaseException:
            self._reader_connection = self._renewed(self._reader_connection)
            raise

    async def read_in_thread(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a long query in a thread, on one snapshot of the database."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_here, function)

    def on_events(self, listener: Callable[[list[Event]], None]) -> None:
        """Call `listener` on the loop with the events of each transaction, in order, after its commit."""
        self._listeners.append(listener)

    def on_changes(self, listener: Callable[[int, int], None]) -> None:
        """Call `listener` on the loop with (mutations, deletions among them) after each commit that has any."""
        self._change_listeners.append(listener)

    def close(self) -> None:
        """Finish what is queued and close the files."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._writer.join()
        self._readers.shutdown()
        for connection in (*self._thread_readers, self._reader_connection, self._writer_connection):
            connection.close()

    def _renewed(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """A connection in place of one whose reader raised.

        The traceback may hold a cursor in the middle of its rows, and with it
        the database as it was: all later reads would see that.
        """
        connection.close()
        return _connect(self.path, read_only=True)

    # -- reader threads --

    def _read_here(self, function: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = _connect(self.path, read_only=True)
            self._thread_readers.add(connection)
        connection.execute("BEGIN")
        try:
            result = function(connection)
        except BaseException:
            self._thread_readers.discard(connection)
            self._local.connection = self._renewed(connection)
            self._thread_readers.add(self._local.connection)
            raise
        connection.execute("ROLLBACK")
        return result

    # -- the writer thread --

    def _write_forever(self) -> None:
        while batch := self._next_batch():
            try:
                self._run(batch)
            except BaseException as error:  # the thread must outlive anything
                log.error("metadata writer failed", exc_info=error)
                self._fail(batch, error)
            self._changes.settle()
            self._hand_over(batch)
            self._reserve.restore()

    def _next_batch(self) -> list[_Write]:
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
            return [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]

    def _run(self, batch: list[_Write], *, again: bool = False) -> None:
        connection = self._writer_connection
        done = 0
        try:
            connection.execute("BEGIN IMMEDIATE")
            for done, write in enumerate(batch, 1):
                self._run_one(write)
                if not connection.in_transaction:
                    # SQLite gave up the whole transaction (disk full, I/O error): all before it is undone too.
                    self._lost(batch[:done], write.error, again)
                    self._run(batch[done:], again=again)
                    return
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._lost(batch, error, again)

    def _lost(self, batch: list[_Write], cause: BaseException | None, again: bool) -> None:
        """Nothing of `batch` was kept: fail it, or what is urgent in it only after another try."""
        self._fail(batch, cause)
        urgent = [write for write in batch if write.urgent]
        if again or not urgent or not _is_full(cause):
            return
        self._make_room()
        for write in urgent:
            write.error = None
        self._run(urgent, again=True)

    def _make_room(self) -> None:
        if self._reserve.release():
            log.warning("disk full: using the reserve for what must get through")
        try:
            # Once all of the log is in the database, it is written from its beginning again.
            self._writer_connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except sqlite3.Error as error:
            log.warning("checkpoint failed", error=str(error))

    def _run_one(self, write: _Write) -> None:
        connection = self._writer_connection
        transaction = Transaction(connection)
        connection.execute("SAVEPOINT one")
        try:
            write.result = write.function(transaction)
            connection.execute("RELEASE one")
            write.transaction = transaction
        except BaseException as error:
            write.error = error
            if connection.in_transaction:
                connection.execute("ROLLBACK TO one")
                connection.execute("RELEASE one")

    @staticmethod
    def _fail(batch: Iterable[_Write], cause: BaseException | None) -> None:
        """None of these was kept. Their own errors go too: they may rest on a neighbour's undone write."""
        for write in batch:
            write.transaction = None
            write.error = cause

    @staticmethod
    def _by_loop(batch: list[_Write]) -> dict[asyncio.AbstractEventLoop, list[_Write]]:
        loops: dict[asyncio.AbstractEventLoop, list[_Write]] = {}
        for write in batch:
            loops.setdefault(write.future.get_loop(), []).append(write)
        return loops

    def _hand_over(self, batch: list[_Write]) -> None:
        for loop, writes in self._by_loop(batch).items():
            try:
                loop.call_soon_threadsafe(self._finish, writes)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.debug("writes finished after their loop")

    def _finish(self, batch: list[_Write]) -> None:
        """On the loop: events out, callbacks run, callers woken."""
        committed = [write.transaction for write in batch if write.transaction is not None]
        events = [event for transaction in committed for event in transaction._events]
        callbacks = [callback for transaction in committed for callback in transaction._after]
        if events:
            callbacks[:0] = [partial(listener, events) for listener in self._listeners]
        mutations = sum(transaction._mutations for transaction in committed)
        if mutations:
            deletions = sum(transaction._deletions for transaction in committed)
            callbacks += [partial(listener, mutations, deletions) for listener in self._change_listeners]
        for callback in callbacks:
            try:
                callback()
            except Exception as error:  # one listener's failure isn't that of every caller
                log.error("failure after a commit", exc_info=error)
        for write in batch:
            if write.future.done():
                continue
            if write.error is not None:
                write.future.set_exception(_meaning(write.error))
            else:
                write.future.set_result(write.result)


def _unusable(path: Path, error: sqlite3.DatabaseError) -> errors.Error:
    """Why the database can't be opened, and what to do."""
    if _is_full(error):
        return errors.ResourceExhausted(f"{path}: no space left on device: resource exhausted")
    if isinstance(error, sqlite3.OperationalError):
        return errors.FailedPrecondition(f"{path}: {error}; give another --root: failed precondition")
    return errors.FailedPrecondition(
        f"{path} is damaged ({error}): put a copy of it back, or move {path.parent.parent} away,"
        " or give another --root: failed precondition"
    )


def _meaning(error: BaseException) -> BaseException:
    """SQLite's failures in the words of our errors; the rest as it is."""
    if not isinstance(error, sqlite3.OperationalError):
        return error
    if _is_full(error):
        return errors.ResourceExhausted("write metadata: no space left on device: resource exhausted")
    return errors.Unavailable(f"write metadata: {error}: unavailable")


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname == "SQLITE_FULL"


class _Reserve:
    """Disk space that is held by a file until it is needed, so that one can still delete when nothing else fits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = False
        self._next_try = 0.0
        self.restore()

    def release(self) -> bool:
        """Give the space up; False if there is none to give."""
        if not self._held:
            return False
        self._path.unlink(missing_ok=True)
        self._held = False
        self._next_try = time.monotonic() + _RESERVE_PAUSE
        return True

    def restore(self) -> None:
        """Take the space again, if it is there; not at once, for others wait for it too."""
        if self._held or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + _RESERVE_PAUSE
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
            self._held = True
        except OSError:
            self._path.unlink(missing_ok=True)


# -- opening ------------------------------------------------------------------------------------------------


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=10, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Debian's SQLite overwrites what is deleted: a deletion would need more room than it frees.
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and tables == 0:
            _create(connection)
        elif application != schema.APPLICATION_ID:
            raise errors.FailedPrecondition(f"{path} is not a database of Longshore's: failed precondition")
        else:
            _migrate(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.close()
        raise


def _create(connection: sqlite3.Connection) -> None:
    for statement in schema.SCHEMA.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("INSERT INTO meta VALUES ('version', ?)", (str(schema.VERSION),))


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    (value,) = connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
    version = int(value)
    if version > schema.VERSION:
        raise errors.FailedPrecondition(
            f"{path} has schema version {version}, this program knows {schema.VERSION}: upgrade Longshore"
            " or use another --root: failed precondition"
        )
    if version == schema.VERSION:  # writes nothing: it must open on a full disk
        return
    for statements in schema.MIGRATIONS[version - 1 :]:
        for statement in statements:
            connection.execute(statement)
    connection.execute("UPDATE meta SET value = ? WHERE key = 'version'", (str(schema.VERSION),))
