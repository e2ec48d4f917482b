"""Snapshotter for trees in directories: everything but what a `Driver` knows about its filesystem.

Order of the acts, so that a crash at any point leaves a whole snapshot or none:

- Directories are made first, under a number that nobody has had, and then the
  row that makes them a snapshot is committed. What a crash leaves in between is
  found when the number's turn comes again, and replaced.
- Removal takes the row away and puts the number into the table `snapshots_trash`
  in one transaction; directories in the trash are removed in the background,
  at the next start if need be. Nothing else is ever removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from longshore.api import errors
from longshore.api.events.snapshot_pb2 import SnapshotCommit, SnapshotPrepare, SnapshotRemove
from longshore.containerd import filters as filtering
from longshore.containerd.gc import edges, references
from longshore.containerd.gc.holds import Holds
from longshore.containerd.gc.mark import Node
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.oserrors import meaning
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.driver import Driver, QuickDriver, Workers
from longshore.containerd.snapshots.snapshotter import TARGET_LABEL, Info, Kind, Mount, Relabel, Usage
from longshore.layers import trees

log = structlog.get_logger("snapshots")

BLOCK: Final = 100

_FORGET_TOGETHER: Final = 64

# A snapshot of a short-lived container holds less than this; more is removed in a worker process.
_REMOVED_HERE: Final = 256

# Seconds that the trash waits for more: removals come in rows, and one thread's turn does for all of them.
_PAUSE: Final = 0.05

_ROW: Final = (
    "SELECT number, key, parent, kind, created, updated, labels, size, inodes FROM snapshots"
    " WHERE namespace = ? AND snapshotter = ? AND key = ?"
)
_PAGE: Final = (
    "SELECT number, key, parent, kind, created, updated, labels, size, inodes FROM snapshots"
    " WHERE namespace = ? AND snapshotter = ? AND key > ? ORDER BY key LIMIT ?"
)
# Numbers of a snapshot and all below it, in order.
_CHAIN: Final = """
WITH RECURSIVE chain (depth, number, parent) AS (
    SELECT 0, number, parent FROM snapshots WHERE namespace = ?1 AND snapshotter = ?2 AND key = ?3
    UNION ALL
    SELECT depth + 1, below.number, below.parent FROM chain JOIN snapshots AS below
    ON below.namespace = ?1 AND below.snapshotter = ?2 AND below.key = chain.parent
    WHERE chain.parent != ''
)
SELECT number FROM chain ORDER BY depth
"""


class _Row(NamedTuple):
    number: int
    key: str
    parent: str
    kind: int
    created: int
    updated: int
    labels: str
    size: int
    inodes: int
    """0: not measured. A measured tree has one at least."""

    def info(self) -> Info:
        labels = labelling.loads(self.labels)
        return Info(self.key, self.parent, Kind(self.kind), self.created, self.updated, labels)


class Numbers:
    """Gives each snapshot a number that none has had before; shared by all snapshotters of a database."""

    def __init__(self, store: Store) -> None:
        statement = (
            "SELECT max(coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'snapshots'), 0),"
            " coalesce((SELECT max(number) FROM proxied), 0))"
        )
        self._last: int = store.read(lambda connection: connection.execute(statement).fetchone()[0])

    def next(self) -> int:
        self._last += 1
        return self._last


class LocalSnapshotter:
    """A Snapshotter. `workers` (a zygote) takes long work; without, threads do."""

    def __init__(
        self,
        name: str,
        driver: Driver,
        store: Store,
        numbers: Numbers,
        workers: Workers | None,
        holds: Holds | None = None,
    ) -> None:
        self.name = name
        self._holds = holds or Holds()
        self._driver = driver
        self._make_quickly = driver.make_quickly if isinstance(driver, QuickDriver) else None
        self._store = store
        self._numbers = numbers
        self._workers = workers
        self._resource = f"snapshots/{name}"
        self._full = asyncio.Event()
        self._asked = asyncio.Event()
        self._clean = asyncio.Event()
        self._gone: set[int] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to empty the trash; call on the event loop."""
        self._full.set()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def close(self) -> None:
        """Stop emptying the trash; what is left waits for the next start."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])

    # -- looking --------------------------------------------------------------------------------------------

    async def stat(self, scope: Scope, key: str) -> Info:
        return self._read(scope, key).info()

    async def usage(self, scope: Scope, key: str) -> Usage:
        row = self._read(scope, key)
        if row.kind == Kind.VIEW:
            return Usage(0, 0)  # nothing of its own
        if row.inodes:
            return Usage(row.size, row.inodes)
        usage = await self._measure(row.number)
        if row.kind == Kind.COMMITTED:
            # Measured when first asked for, and not at commit: few ask.
            await self._store.write(
                lambda transaction: transaction.execute(
                    "UPDATE snapshots SET size = ?, inodes = ? WHERE number = ? AND kind = ?",
                    (usage.size, usage.inodes, row.number, Kind.COMMITTED),
                )
            )
        return usage

    async def _measure(self, number: int) -> Usage:
        path = str(self._driver.tree(number))
        if self._workers is None:
            return Usage(*await asyncio.to_thread(trees.usage, path))
        return Usage(**await self._workers.call("longshore.layers.worker:usage", {"path": path}))

    async def mounts(self, scope: Scope, key: str) -> Sequence[Mount]:
        row = self._read(scope, key)
        if row.kind == Kind.COMMITTED:
            raise errors.FailedPrecondition(
                f"failed to get active mount: requested snapshot {_long_name(scope, row)} not active or view:"
                " failed precondition"
            )
        parents = self._store.read(lambda connection: self._chain(connection, scope, row.parent))
        return self._driver.mounts(row.number, parents, Kind(row.kind))

    def walk(self, scope: Scope, filters: Sequence[str]) -> AsyncIterator[Sequence[Info]]:
        return self._pages(scope, filtering.compile(filters))

    async def _pages(self, scope: Scope, keep: filtering.Filter) -> AsyncGenerator[Sequence[Info], None]:
        last = ""
        block: list[Info] = []
        while True:
            page = self._store.read(self._paged(scope, last))
            for row in page:
                info = row.info()
                if keep(_lookup(info)):
                    block.append(info)
                    if len(block) == BLOCK:
                        yield block
                        block = []
            if len(page) < BLOCK:
                break
            last = page[-1].key
            await asyncio.sleep(0)
        if block:
            yield block

    # -- changing -------------------------------------------------------------------------------------------

    async def update(self, scope: Scope, key: str, relabel: Relabel) -> Info:
        def update(transaction: Transaction) -> Info:
            info = self._load(transaction, scope, key).info()
            labels = relabel(info.labels)
            labelling.validate(labels, "info.Labels")
            labelling.drop_empty(labels)
            now = time.time_ns()
            transaction.execute(
                "UPDATE snapshots SET labels = ?, updated = ? WHERE namespace = ? AND snapshotter = ? AND key = ?",
                (labelling.dumps(labels), now, scope.namespace, self.name, key),
            )
            edges.record(
                transaction, scope.namespace, references.of_snapshot(self.name, key, info.parent, labels)
            )
            return info._replace(labels=labels, updated=now)

        return await self._store.write(update)

    async def prepare(
        self, scope: Scope, key: str, parent: str, labels: Mapping[str, str]
    ) -> Sequence[Mount]:
        return await self._create(scope, key, parent, labels, Kind.ACTIVE)

    async def view(self, scope: Scope, key: str, parent: str, labels: Mapping[str, str]) -> Sequence[Mount]:
        return await self._create(scope, key, parent, labels, Kind.VIEW)

    async def _create(
        self, scope: Scope, key: str, parent: str, labels: Mapping[str, str], kind: Kind
    ) -> Sequence[Mount]:
        if not key:
            raise errors.InvalidArgument("snapshot key must not be empty: invalid argument")
        labelling.validate(labels, "info.Labels")
        kept = dict(labels)
        labelling.drop_empty(kept)
        await self._refuse_existing(scope, key, kept.get(TARGET_LABEL, ""))
        async with self._holds.hold(Node(scope.namespace, self._resource, parent)):
            return await self._make(scope, key, parent, kept, kind)

    async def _make(
        self, scope: Scope, key: str, parent: str, labels: Mapping[str, str], kind: Kind
    ) -> Sequence[Mount]:
        chain = self._store.read(lambda connection: self._parents(connection, scope, parent))
        number = self._numbers.next()
        quick = self._make_quickly

        def insert(transaction: Transaction) -> None:
            self._insert(transaction, scope, number, key, parent, labels, kind)
            if quick is not None:
                quick(number, chain, kind)

        try:
            if quick is None:
                await self._driver.make(number, chain, kind, self._workers)
            await self._store.write(insert)
        except BaseException as error:
            await self._discard([number])
            if isinstance(error, OSError):
                raise meaning(error, "failed to create snapshot") from None
            raise
        return self._driver.mounts(number, chain, kind)

    async def _refuse_existing(self, scope: Scope, key: str, target: str) -> None:
        """AlreadyExists, with the existing one in the lease, if `key` or `target` is taken."""
        for name, text in ((target, f'target snapshot "{target}"'), (key, f'snapshot "{key}"')):
            if name and await self._exists(scope, name):
                raise errors.AlreadyExists(f"{text}: already exists")

    async def _exists(self, scope: Scope, name: str) -> bool:
        """Whether there is such a snapshot, which the lease holds then."""
        if self._store.read(lambda connection: self._find(connection, scope, name)) is None:
            return False

        def lease(transaction: Transaction) -> bool:
            # Once more: a collection may have been faster.
            if transaction.one(_ROW, (scope.namespace, self.name, name)) is None:
                return False
            transaction.lease_resource(scope.namespace, scope.lease, self._resource, name)
            return True

        return await self._store.write(lease)

    def _insert(
        self,
        transaction: Transaction,
        scope: Scope,
        number: int,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        kind: Kind,
    ) -> None:
        namespace, now = scope.namespace, time.time_ns()
        transaction.ensure_namespace(namespace)
        # Once more: the parent may have gone, and another may have taken the key, while directories were made.
        if parent and self._load_parent(transaction, scope, parent) is None:
            raise _no_parent(parent)
        if transaction.one(_ROW, (namespace, self.name, key)) is not None:
            raise errors.AlreadyExists(f'snapshot "{key}": already exists')
        transaction.lease_resource(namespace, scope.lease, self._resource, key)
        transaction.execute(
            "INSERT INTO snapshots (number, namespace, snapshotter, key, parent, kind, created, updated, labels)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, namespace, self.name, key, parent, kind, now, now, labelling.dumps(labels)),
        )
        edges.record(transaction, namespace, references.of_snapshot(self.name, key, parent, labels))
        if kind == Kind.ACTIVE:
            event = SnapshotPrepare(key=key, parent=parent, snapshotter=self.name)
            transaction.publish(namespace, "/snapshot/prepare", event)

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Mapping[str, str], parent: str = ""
    ) -> None:
        if not name:
            raise errors.InvalidArgument("snapshot name must not be empty: invalid argument")
        labelling.validate(labels, "info.Labels")
        kept = dict(labels)
        labelling.drop_empty(kept)
        exists = await self._store.write(
            lambda transaction: self._commit(transaction, scope, name, key, kept, parent)
        )
        if exists:
            raise errors.AlreadyExists(f'snapshot "{name}": already exists')

    def _commit(
        self,
        transaction: Transaction,
        scope: Scope,
        name: str,
        key: str,
        labels: Mapping[str, str],
        parent: str,
    ) -> bool:
        """Whether `name` is taken: the lease of the one that has it must be kept, so that this is no error here."""
        namespace = scope.namespace
        transaction.lease_resource(namespace, scope.lease, self._resource, name)
        if transaction.one(_ROW, (namespace, self.name, name)) is not None:
            return True
        row = self._load(transaction, scope, key)
        if row.kind != Kind.ACTIVE:
            raise errors.FailedPrecondition(
                f'failed to commit snapshot: snapshot "{_long_name(scope, row)}" is not active: failed precondition'
            )
        if parent and parent != row.parent:
            raise errors.Unimplemented(
                f"snapshotter {self.name} can't move a snapshot to a parent: not implemented"
            )
        transaction.unlease_resource(namespace, scope.lease, self._resource, key)
        now = time.time_ns()
        transaction.execute(
            "UPDATE snapshots SET key = ?, kind = ?, labels = ?, created = ?, updated = ? WHERE number = ?",
            (name, Kind.COMMITTED, labelling.dumps(labels), now, now, row.number),
        )
        edges.forget(transaction, namespace, self._resource, key, deleted=False)
        edges.record(transaction, namespace, references.of_snapshot(self.name, name, row.parent, labels))
        event = SnapshotCommit(key=key, name=name, snapshotter=self.name)
        transaction.publish(namespace, "/snapshot/commit", event)
        return False

    async def remove(self, scope: Scope, key: str) -> None:
        def remove(transaction: Transaction) -> None:
            row = self._load(transaction, scope, key)
            child = transaction.one(
                "SELECT 1 FROM snapshots WHERE namespace = ? AND snapshotter = ? AND parent = ? LIMIT 1",
                (scope.namespace, self.name, key),
            )
            if child is not None:
                raise errors.FailedPrecondition("cannot remove snapshot with child: failed precondition")
            transaction.execute("DELETE FROM snapshots WHERE number = ?", (row.number,))
            transaction.execute("INSERT INTO snapshots_trash VALUES (?, ?)", (self.name, row.number))
            transaction.unlease_resource(scope.namespace, scope.lease, self._resource, key)
            edges.forget(transaction, scope.namespace, self._resource, key)
            event = SnapshotRemove(key=key, snapshotter=self.name)
            transaction.publish(scope.namespace, "/snapshot/remove", event)
            transaction.after_commit(self._full.set)

        self._clean.clear()
        await self._store.write(remove, urgent=True)

    # -- the trash ------------------------------------------------------------------------------------------

    async def cleanup(self) -> None:
        self._clean.clear()
        self._asked.set()
        self._full.set()
        await self._clean.wait()

    async def _sweep(self) -> None:
        while True:
            await self._full.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await self._asked.wait()
            self._asked.clear()
            self._full.clear()
            try:
                await self._empty_trash()
            except Exception as error:
                # For instance a mount that somebody left in it. The next removal tries again.
                log.warning("removed snapshots can't be deleted yet", snapshotter=self.name, error=str(error))
            if not self._full.is_set():
                self._clean.set()

    async def _empty_trash(self) -> None:
        statement = "SELECT number FROM snapshots_trash WHERE snapshotter = ? ORDER BY number"
        rows = self._store.read(lambda connection: connection.execute(statement, (self.name,)).fetchall())
        numbers = [number for (number,) in rows if number not in self._gone]
        failed = await self._discard(numbers)
        self._gone.update(number for number in numbers if number not in failed)
        if len(self._gone) >= _FORGET_TOGETHER:
            await self._forget_gone()
        for error in failed.values():
            raise error

    async def _forget_gone(self) -> None:
        """Rows of trash that is gone do no harm, and each commit costs a flush: many go at once."""
        gone = frozenset(self._gone)
        numbers = ",".join(map(str, gone))
        statement = f"DELETE FROM snapshots_trash WHERE snapshotter = ? AND number IN ({numbers})"
        await self._store.write(lambda transaction: transaction.execute(statement, (self.name,)), urgent=True)
        self._gone -= gone

    async def _discard(self, numbers: Sequence[int]) -> dict[int, Exception]:
        """Remove the directories of these; what could not be, and why."""
        if not numbers:
            return {}
        place = str(self._driver.directory(0).parent)
        names = {number: self._driver.directory(number).name for number in numbers}
        limit = None if self._workers is None else _REMOVED_HERE
        left, failed = await asyncio.to_thread(_remove, place, names, limit)
        for number in left:
            assert self._workers is not None
            arguments = {"directory": place, "names": [names[number]]}
            try:
                await self._workers.call("longshore.layers.worker:remove", arguments)
            except Exception as error:
                failed[number] = error
        return failed

    # -- garbage collection ---------------------------------------------------------------------------------

    def behind(self, mounts: Iterable[Mount]) -> list[Node]:
        """The snapshots that these mounts show or change."""
        place = str(self._driver.directory(0).parent) + "/"
        numbers = {
            int(number)
            for mount in mounts
            for path in _paths(mount)
            if path.startswith(place) and (number := path[len(place) :].partition("/")[0]).isdecimal()
        }
        if not numbers:
            return []
        statement = f"SELECT namespace, key FROM snapshots WHERE number IN ({','.join(map(str, numbers))})"
        rows = self._store.read(lambda connection: connection.execute(statement).fetchall())
        return [Node(namespace, self._resource, key) for namespace, key in rows]

    # -- rows -----------------------------------------------------------------------------------------------

    def _find(self, connection: sqlite3.Connection, scope: Scope, key: str) -> _Row | None:
        row = connection.execute(_ROW, (scope.namespace, self.name, key)).fetchone()
        return None if row is None else _Row(*row)

    def _read(self, scope: Scope, key: str) -> _Row:
        row = self._store.read(lambda connection: self._find(connection, scope, key))
        if row is None:
            raise _not_found(key)
        return row

    def _load(self, transaction: Transaction, scope: Scope, key: str) -> _Row:
        row = transaction.one(_ROW, (scope.namespace, self.name, key))
        if row is None:
            raise _not_found(key)
        return _Row(*row)

    def _load_parent(self, transaction: Transaction, scope: Scope, parent: str) -> _Row | None:
        row = transaction.one(_ROW, (scope.namespace, self.name, parent))
        return None if row is None else _Row(*row)

    def _paged(self, scope: Scope, last: str) -> Callable[[sqlite3.Connection], list[_Row]]:
        parameters = (scope.namespace, self.name, last, BLOCK)
        return lambda connection: [_Row(*row) for row in connection.execute(_PAGE, parameters)]

    def _chain(self, connection: sqlite3.Connection, scope: Scope, top: str) -> list[int]:
        if not top:
            return []
        return [number for (number,) in connection.execute(_CHAIN, (scope.namespace, self.name, top))]

    def _parents(self, connection: sqlite3.Connection, scope: Scope, parent: str) -> list[int]:
        """Numbers of `parent` and all below. NotFound; InvalidArgument if it isn't committed."""
        if not parent:
            return []
        row = self._find(connection, scope, parent)
        if row is None:
            raise _no_parent(parent)
        if row.kind != Kind.COMMITTED:
            raise errors.InvalidArgument(
                f'failed to create snapshot: parent "{_long_name(scope, row)}" is not committed snapshot:'
                " invalid argument"
            )
        return self._chain(connection, scope, parent)


def _paths(mount: Mount) -> Iterator[str]:
    yield mount.source
    for option in mount.options:
        name, _, value = option.partition("=")
        if name in ("upperdir", "lowerdir"):
            yield from value.split(":")


def _not_found(key: str) -> errors.NotFound:
    return errors.NotFound(f"snapshot {key} does not exist: not found")


def _no_parent(parent: str) -> errors.NotFound:
    return errors.NotFound(f"parent snapshot {parent} does not exist: not found")


def _long_name(scope: Scope, row: _Row) -> str:
    """What containerd calls a snapshot below its namespaces."""
    return f"{scope.namespace}/{row.number}/{row.key}"


def _remove(
    place: str, names: Mapping[int, str], limit: int | None
) -> tuple[list[int], dict[int, Exception]]:
    """Remove trees in a directory, by number; those that hold more than `limit`, and those that failed."""
    left: list[int] = []
    failed: dict[int, Exception] = {}
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, name in names.items():
            try:
                if not trees.remove(fd, os.fsencode(name), limit=limit):
                    left.append(number)
            except Exception as error:
                failed[number] = error
    finally:
        os.close(fd)
    return left, failed


_KINDS: Final = {Kind.VIEW: "view", Kind.ACTIVE: "active", Kind.COMMITTED: "committed"}


def _lookup(info: Info) -> filtering.Lookup:
    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["kind", *_]:
                return _KINDS[info.kind]
            case ["name", *_]:
                return info.name or None
            case ["parent", *_]:
                return info.parent
            case ["labels", *key]:
                return labelling.lookup(info.labels, key)
            case _:
                return None

    return find
