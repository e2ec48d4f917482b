"""The content store of this machine: bytes in files, knowledge in the metadata database.

Order of the acts, so that a crash at any point leaves a whole blob or none:

- commit: data to disk, rename to its digest, directory to disk, then the row.
  A crash before the row leaves a file that nobody refers to; the next commit
  of the same bytes replaces it.
- delete: the row, then the file. The transaction that removes the row notes the
  file in `content_trash`, so that a crash in between leaves nothing for ever.

A blob's file belongs to all namespaces that have a row: commit and delete of
one digest exclude each other (`_digests`), and the transaction counts the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from longshore.api import errors
from longshore.api.events.content_pb2 import ContentCreate, ContentDelete
from longshore.containerd import filters as filtering
from longshore.containerd.content import trash
from longshore.containerd.content.files import Files, Ingest
from longshore.containerd.content.store import Blob, Info, Labels, Relabel, Status
from longshore.containerd.gc import edges, references
from longshore.containerd.gc.holds import Holds
from longshore.containerd.gc.mark import Node
from longshore.containerd.metadata import digests
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.oserrors import meaning
from longshore.containerd.scope import Scope

T = TypeVar("T")

SHARED, ISOLATED = "shared", "isolated"
_SHAREABLE: Final = "containerd.io/namespace.shareable"

BLOCK: Final = 100
_DAY_NS: Final = 24 * 3600 * 1_000_000_000

# A writer whose client has just gone may take a moment to notice.
_LOCK_SECONDS: Final = 0.25

# So many removed files are forgotten at once.
_TRASHED: Final = 500

# Hashing so little takes less time than changing threads.
_INLINE: Final = 1 << 14

_INFO: Final = "SELECT digest, size, created, updated, labels FROM blobs WHERE namespace = ? AND digest = ?"
_PAGE: Final = (
    "SELECT digest, size, created, updated, labels FROM blobs"
    " WHERE namespace = ? AND digest > ? ORDER BY digest LIMIT ?"
)
# The last column: how much there is of an ingest without a file, whose bytes another namespace has.
_INGEST_COLUMNS: Final = (
    "SELECT ref, directory, expected, created,"
    " coalesce((SELECT size FROM blobs WHERE digest = expected LIMIT 1), 0) FROM ingests WHERE namespace = ?"
)
_INGEST: Final = _INGEST_COLUMNS + " AND ref = ?"
_INGESTS: Final = _INGEST_COLUMNS + " ORDER BY ref"


class LocalContent:
    """A ContentStore. `policy`: may a namespace get a blob of another by knowing its digest (shared), or not?"""

    def __init__(
        self, files: Files | Path, store: Store, policy: str = SHARED, holds: Holds | None = None
    ) -> None:
        self._files = files if isinstance(files, Files) else Files(files)
        self._store = store
        self._holds = holds or Holds()
        self._cleaning = asyncio.Lock()
        self._policy = policy
        self._threads = ThreadPoolExecutor(8, "content")
        self._refs: dict[tuple[str, str], _RefLock] = {}
        self._digests: dict[str, _Counted] = {}

    def close(self) -> None:
        """Wait for running file work; call when no writer is left."""
        self._threads.shutdown()

    # -- blobs ----------------------------------------------------------------------------------------------

    async def info(self, scope: Scope, digest: str) -> Info:
        row = self._store.read(
            lambda connection: connection.execute(_INFO, (scope.namespace, digest)).fetchone()
        )
        if row is None:
            raise _not_found(digest)
        return _info(row)

    async def update(self, scope: Scope, digest: str, relabel: Relabel) -> Info:
        def update(transaction: Transaction) -> Info:
            row = transaction.one(_INFO, (scope.namespace, digest))
            if row is None:
                raise _not_found(digest)
            info = _info(row)
            labels = relabel(info.labels)
            labelling.validate(labels, "info.Labels")
            labelling.drop_empty(labels)
            now = time.time_ns()
            transaction.execute(
                "UPDATE blobs SET labels = ?, updated = ? WHERE namespace = ? AND digest = ?",
                (labelling.dumps(labels), now, scope.namespace, digest),
            )
            edges.record(transaction, scope.namespace, references.of_content(digest, labels))
            return info._replace(labels=labels, updated=now)

        return await self._store.write(update)

    def list(self, scope: Scope, filters: Sequence[str]) -> AsyncIterator[Sequence[Info]]:
        keep = filtering.compile(filters)
        return self._pages(scope.namespace, keep)

    async def _pages(self, namespace: str, keep: filtering.Filter) -> AsyncGenerator[Sequence[Info], None]:
        last = ""
        block: list[Info] = []
        while True:
            page = self._store.read(_paged(namespace, last))
            for row in page:
                info = _info(row)
                if keep(_blob_lookup(info)):
                    block.append(info)
                    if len(block) == BLOCK:
                        yield block
                        block = []
            if len(page) < BLOCK:
                break
            last = page[-1][0]
            await asyncio.sleep(0)
        if block:
            yield block

    async def delete(self, scope: Scope, digest: str) -> None:
        def delete(transaction: Transaction) -> bool:
            gone = transaction.execute(
                "DELETE FROM blobs WHERE namespace = ? AND digest = ?", (scope.namespace, digest)
            )
            if not gone:
                raise _not_found(digest)
            transaction.unlease_resource(scope.namespace, scope.lease, "content", digest)
            edges.forget(transaction, scope.namespace, references.CONTENT, digest)
            transaction.publish(scope.namespace, "/content/delete", ContentDelete(digest=digest))
            return trash.put_blob(transaction, digest)

        async with self._exclusive(digest):
            if await self._store.write(delete, urgent=True):
                with contextlib.suppress(OSError):  # it is in the trash, and `cleanup` tries again
                    await self.thread(self._files.remove_blob, digest)

    async def open(self, scope: Scope, digest: str) -> Blob:
        info = await self.info(scope, digest)
        try:
            if self._files.opens_at_once:
                return Blob(self._files.open_blob(digest), info.size)
            return Blob(await self.thread(self._files.open_blob, digest), info.size)
        except FileNotFoundError:
            raise _not_found(digest) from None

    # -- ingests --------------------------------------------------------------------------------------------

    async def writer(self, scope: Scope, ref: str, *, total: int = 0, expected: str = "") -> LocalWriter:
        lock = await self._lock_ref(scope.namespace, ref)
        nodes: Sequence[Node] = ()
        try:
            nodes = await self._needed(scope.namespace, ref, expected)
            begun = await self._store.write(
                lambda transaction: self._begin(transaction, scope, ref, total, expected)
            )
            if begun is None:
                raise errors.AlreadyExists(f"content {expected}: already exists")
            directory, shared = begun
            ingest = None if shared else await self._open_ingest(scope, ref, directory, total)
            lock.on_release = lambda: self._holds.release(nodes)
            status = Status(ref, shared, total, expected, lock.since, lock.since)
            return LocalWriter(self, scope, status, ingest, lock)
        except BaseException:
            self._holds.release(nodes)
            lock.release()
            raise

    async def _needed(self, namespace: str, ref: str, expected: str) -> Sequence[Node]:
        """What no collection may take while the writer is open: taken hold of."""
        nodes = [Node(namespace, references.INGESTS, ref)]
        if expected:
            await self._holds.between_sweeps()
            statement = "SELECT namespace FROM blobs WHERE digest = ?"
            rows = self._store.read(lambda connection: connection.execute(statement, (expected,)).fetchall())
            nodes += [Node(other, references.CONTENT, expected) for (other,) in rows]
        self._holds.take(nodes)
        return nodes

    def _begin(
        self, transaction: Transaction, scope: Scope, ref: str, total: int, expected: str
    ) -> tuple[str, int] | None:
        """The ingest's directory, and the size of a shared blob that makes bytes superfluous; None if it is there."""
        namespace = scope.namespace
        if expected and transaction.one(_INFO, (namespace, expected)) is not None:
            transaction.lease_resource(namespace, scope.lease, "content", expected)
            return None
        transaction.ensure_namespace(namespace)
        transaction.lease_resource(namespace, scope.lease, "ingests", ref)
        shared = self._shared_size(transaction, namespace, expected) if expected else 0
        if total and shared != total:
            shared = 0
        now = time.time_ns()
        expires = 0 if scope.lease else now + _DAY_NS
        directory = hashlib.sha256(f"{namespace}/{now}/{ref}".encode()).hexdigest()
        ((directory, expected, expires),) = transaction.query(
            "INSERT INTO ingests (namespace, ref, directory, expected, created, expires) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (namespace, ref) DO UPDATE SET expected = coalesce(nullif(excluded.expected, ''), expected),"
            " expires = coalesce(nullif(excluded.expires, 0), expires) RETURNING directory, expected, expires",
            (namespace, ref, directory, expected, now, expires),
        )
        edges.record(transaction, namespace, references.of_ingest(ref, expected, expires))
        return directory, shared

    def _shared_size(self, transaction: Transaction, namespace: str, digest: str) -> int:
        """The size of a blob that another namespace has and shares; 0 if there is none."""
        if self._policy == SHARED:
            row = transaction.one("SELECT size FROM blobs WHERE digest = ? LIMIT 1", (digest,))
            return row[0] if row else 0
        rows = transaction.query(
            "SELECT size, namespaces.labels FROM blobs JOIN namespaces ON name = namespace WHERE digest = ?",
            (digest,),
        )
        return next((size for size, text in rows if labelling.loads(text).get(_SHAREABLE) == "true"), 0)

    async def _open_ingest(self, scope: Scope, ref: str, directory: str, total: int) -> Ingest:
        try:
            return await self.thread(self._files.open_ingest, directory, f"{scope.namespace}/{ref}", total)
        except OSError as error:
            raise meaning(error, f'failed to open ingest "{ref}"') from None

    async def upload_again(self, scope: Scope, status: Status) -> Ingest:
        """The files of an ingest that was begun without any, because another namespace has the blob."""
        row = self._store.read(
            lambda connection: connection.execute(_INGEST, (scope.namespace, status.ref)).fetchone()
        )
        if row is None:
            raise errors.NotFound(f"reference {status.ref}: not found")
        return await self._open_ingest(scope, status.ref, row[1], status.total)

    async def status(self, scope: Scope, ref: str) -> Status:
        row = self._store.read(
            lambda connection: connection.execute(_INGEST, (scope.namespace, ref)).fetchone()
        )
        if row is None:
            raise errors.NotFound(f'could not get status for ref "{ref}": reference {ref}: not found')
        return await self.thread(self._status_of, row)

    async def statuses(self, scope: Scope, filters: Sequence[str]) -> Sequence[Status]:
        keep = filtering.compile(filters)
        rows = self._store.read(
            lambda connection: connection.execute(_INGESTS, (scope.namespace,)).fetchall()
        )
        chosen = [row for row in rows if keep(_ref_lookup(row[0]))]
        return await self.thread(lambda: [self._status_of(row) for row in chosen])

    def _status_of(self, row: tuple[str, str, str, int, int]) -> Status:
        ref, directory, expected, created, shared = row
        progress = self._files.progress(directory)
        if progress is None:
            return Status(ref, shared, shared, expected, created, created)
        return Status(ref, progress[0], self._files.total(directory), expected, created, progress[1])

    async def abort(self, scope: Scope, ref: str) -> None:
        directory = await self._store.write(
            lambda transaction: self._end(transaction, scope, ref), urgent=True
        )
        await self.thread(self._files.remove_ingest, directory)

    @staticmethod
    def _end(transaction: Transaction, scope: Scope, ref: str, *, deleted: bool = True) -> str:
        """Forget an ingest's row; its directory."""
        row = transaction.one(_INGEST, (scope.namespace, ref))
        if row is None:
            raise errors.NotFound(f"reference {ref}: not found")
        transaction.execute("DELETE FROM ingests WHERE namespace = ? AND ref = ?", (scope.namespace, ref))
        transaction.unlease_resource(scope.namespace, scope.lease, "ingests", ref)
        edges.forget(transaction, scope.namespace, references.INGESTS, ref, deleted=deleted)
        directory: str = row[1]
        trash.put_ingest(transaction, directory)
        return directory

    # -- committing -----------------------------------------------------------------------------------------

    async def commit(
        self, scope: Scope, ref: str, digest: str, size: int, labels: Labels, ingest: Ingest | None
    ) -> None:
        """A writer's last act. `ingest` has the bytes; without, another namespace must still have them."""
        async with self._exclusive(digest):
            published = ingest is not None and not self._known(digest)
            if ingest is not None and published:
                await self._publish(ingest, digest, ref)
            try:
                created, directory = await self._store.write(
                    lambda transaction: self._record(
                        transaction, scope, ref, digest, size, labels, ingest is None
                    )
                )
            except BaseException:
                if ingest is not None and published:
                    await self.thread(self._files.withdraw, ingest, digest)
                raise
            await self.thread(self._files.remove_ingest, directory)
        if not created:
            raise errors.AlreadyExists(f"content {digest}: already exists")

    async def _publish(self, ingest: Ingest, digest: str, ref: str) -> None:
        try:
            await self.thread(self._files.publish, ingest, digest)
        except FileNotFoundError:
            raise errors.NotFound(f"reference {ref}: not found") from None
        except OSError as error:
            raise meaning(error, f'failed to commit "{ref}"') from None

    def _known(self, digest: str) -> bool:
        statement = "SELECT 1 FROM blobs WHERE digest = ? LIMIT 1"
        return (
            self._store.read(lambda connection: connection.execute(statement, (digest,)).fetchone())
            is not None
        )

    def _record(
        self,
        transaction: Transaction,
        scope: Scope,
        ref: str,
        digest: str,
        size: int,
        labels: Labels,
        shared: bool,
    ) -> tuple[bool, str]:
        """The row of a new blob; False if the namespace has it already. The ingest ends either way."""
        namespace = scope.namespace
        directory = self._end(transaction, scope, ref, deleted=False)
        exists = transaction.one(_INFO, (namespace, digest)) is not None
        if shared and not exists and not self._shared_size(transaction, namespace, digest):
            raise errors.NotFound(f"content {digest}: not found")
        transaction.lease_resource(namespace, scope.lease, "content", digest)
        if exists:
            return False, directory
        now = time.time_ns()
        transaction.execute(
            "INSERT INTO blobs (namespace, digest, size, created, updated, labels) VALUES (?, ?, ?, ?, ?, ?)",
            (namespace, digest, size, now, now, labelling.dumps(labels)),
        )
        edges.record(transaction, namespace, references.of_content(digest, labels))
        transaction.publish(namespace, "/content/create", ContentCreate(digest=digest, size=size))
        return True, directory

    # -- the trash ------------------------------------------------------------------------------------------

    async def cleanup(self) -> None:
        """Return when the files of all that was removed are gone. Raises OSError for what can't be; the rest went."""
        failed: deque[OSError] = deque()
        async with self._cleaning:
            last = ("", "")
            while rows := self._store.read(_trash_after(*last)):
                last = rows[-1]
                await self._empty(rows, failed)
        if failed:
            raise failed[0]

    async def _empty(self, rows: Sequence[tuple[str, str]], failed: deque[OSError]) -> None:
        """Remove files and forget them, while nobody commits or deletes these blobs."""
        async with contextlib.AsyncExitStack() as locks:
            for kind, name in rows:
                if kind == trash.BLOB:
                    await locks.enter_async_context(self._exclusive(name))
            doomed = [(kind, name) for kind, name in rows if kind == trash.INGEST or not self._known(name)]
            spared = [row for row in rows if row not in set(doomed)]
            gone = await self.thread(self._remove_files, doomed, failed)

            def forget(transaction: Transaction) -> None:
                for row in (*gone, *spared):
                    transaction.execute("DELETE FROM content_trash WHERE kind = ? AND name = ?", row)

            await self._store.write(forget, urgent=True)

    def _remove_files(
        self, doomed: Sequence[tuple[str, str]], failed: deque[OSError]
    ) -> Sequence[tuple[str, str]]:
        """Those that are gone."""
        gone = []
        for kind, name in doomed:
            try:
                (self._files.remove_blob if kind == trash.BLOB else self._files.discard_ingest)(name)
                gone.append((kind, name))
            except OSError as error:
                failed.append(error)
        return gone

    # -- locks and threads ----------------------------------------------------------------------------------

    async def _lock_ref(self, namespace: str, ref: str) -> _RefLock:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LOCK_SECONDS
        # Others may wait, too: who isn't the first to get it goes on waiting.
        while (held := self._refs.get((namespace, ref))) is not None and loop.time() < deadline:
            await held.released_within(deadline - loop.time())
        if held is not None:
            age = (time.time_ns() - held.since) / 1_000_000
            raise errors.Unavailable(
                f"ref {namespace}/{ref} locked for {age:.6f}ms (since {_go_time(held.since)}): unavailable"
            )
        lock = self._refs[namespace, ref] = _RefLock(lambda: self._refs.pop((namespace, ref)))
        return lock

    @contextlib.asynccontextmanager
    async def _exclusive(self, digest: str) -> AsyncGenerator[None, None]:
        counted = self._digests.setdefault(digest, _Counted())
        counted.users += 1
        try:
            async with counted.lock:
                yield
        finally:
            counted.users -= 1
            if not counted.users:
                self._digests.pop(digest, None)

    def thread(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Run blocking file work in a thread; it goes on to its end also when the caller is cancelled."""
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class LocalWriter:
    """An open ingest; without `ingest` one whose bytes another namespace has (status.offset of them).

    A caller that is cancelled leaves its operation running in a thread: the
    lock keeps the next one, above all `close`, from meeting it.
    """

    def __init__(
        self, content: LocalContent, scope: Scope, status: Status, ingest: Ingest | None, lock: _RefLock
    ) -> None:
        self._content = content
        self._scope = scope
        self._status = status
        self._ingest = ingest
        self._lock = lock
        self._busy = asyncio.Lock()
        self._closed = False

    @property
    def offset(self) -> int:
        return self._status.offset if self._ingest is None else self._ingest.size

    @property
    def status(self) -> Status:
        ingest = self._ingest
        if ingest is None:
            return self._status
        return self._status._replace(offset=ingest.size, started=ingest.started, updated=ingest.updated)

    async def digest(self) -> str:
        async with self._busy:
            return await self._digest()

    async def write(self, data: bytes) -> None:
        if data:
            await _to_its_end(self._write(data))

    async def restart(self) -> None:
        await _to_its_end(self._restart())

    async def commit(self, size: int, expected: str, labels: Mapping[str, str]) -> str:
        return await _to_its_end(self._commit(size, expected, labels))

    async def close(self) -> None:
        await _to_its_end(self._close())

    async def _write(self, data: bytes) -> None:
        async with self._busy:
            ingest = await self._own_ingest()
            # Every answer carries the digest so far, so that hashing can't lag behind; but it needn't wait either.
            hashing = self._content.thread(ingest.hash.update, data) if len(data) > _INLINE else None
            try:
                written = await self._content.thread(ingest.append, data)
            except OSError as error:
                ingest.hash_is_stale = hashing is not None
                raise meaning(error, f'failed to write to ingest "{self._status.ref}"') from None
            finally:
                if hashing is not None:
                    await hashing
            if hashing is None:
                ingest.hash.update(data)
            if written < len(data):
                ingest.hash_is_stale = True
                raise errors.ResourceExhausted(
                    f'failed to write to ingest "{self._status.ref}": no space left on device'
                )

    async def _restart(self) -> None:
        async with self._busy:
            ingest = await self._own_ingest()
            await self._content.thread(ingest.restart)

    async def _commit(self, size: int, expected: str, labels: Mapping[str, str]) -> str:
        labelling.validate(labels, "info.Labels")
        kept = dict(labels)
        labelling.drop_empty(kept)
        async with self._busy:
            if size and size != self.offset:
                raise errors.FailedPrecondition(
                    f'"{self._status.ref}" failed size validation: {self.offset} != {size}: failed precondition'
                )
            digest = await self._digest()
            if expected and expected != digest:
                digest = await self._digest_as(expected, digest)
            await self._content.commit(self._scope, self._status.ref, digest, self.offset, kept, self._ingest)
            return digest

    async def _close(self) -> None:
        async with self._busy:
            if self._closed:
                return
            self._closed = True
            try:
                if self._ingest is not None:
                    await self._content.thread(self._ingest.close)
            finally:
                self._lock.release()

    async def _digest(self) -> str:
        if self._ingest is None:
            return self._status.expected
        if self._ingest.hash_is_stale:
            await self._content.thread(self._ingest.hash_again)
        return "sha256:" + self._ingest.hash.hexdigest()

    async def _own_ingest(self) -> Ingest:
        """Somebody who writes to a shared writer doesn't want the shared bytes, but to upload them again."""
        if self._ingest is None:
            self._ingest = await self._content.upload_again(self._scope, self._status)
        return self._ingest

    async def _digest_as(self, expected: str, digest: str) -> str:
        """`expected`, if that is right and of another algorithm than ours."""
        algorithm = expected.partition(":")[0]
        if self._ingest is not None and algorithm in digests.ALGORITHMS and algorithm != "sha256":
            digest = await self._content.thread(self._ingest.digest, algorithm)
        if digest != expected:
            raise errors.FailedPrecondition(
                f"unexpected commit digest {digest}, expected {expected}: failed precondition"
            )
        return digest


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do it all, also when the caller is cancelled."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


class _RefLock:
    """One writer per ref."""

    def __init__(self, forget: Callable[[], object]) -> None:
        self.since = time.time_ns()
        self.on_release: Callable[[], object] = lambda: None
        self._forget = forget
        self._released = asyncio.Event()

    async def released_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._released.wait(), seconds)

    def release(self) -> None:
        if not self._released.is_set():
            self._forget()
            self._released.set()
            self.on_release()


class _Counted:
    """A lock that goes with its last user."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


# -- rows and filters ---------------------------------------------------------------------------------------


def _trash_after(kind: str, name: str) -> Callable[[sqlite3.Connection], list[tuple[str, str]]]:
    statement = "SELECT kind, name FROM content_trash WHERE (kind, name) > (?, ?) ORDER BY kind, name LIMIT ?"
    return lambda connection: connection.execute(statement, (kind, name, _TRASHED)).fetchall()


def _paged(namespace: str, last: str) -> Callable[[sqlite3.Connection], list[tuple[str, int, int, int, str]]]:
    return lambda connection: connection.execute(_PAGE, (namespace, last, BLOCK)).fetchall()


def _info(row: tuple[str, int, int, int, str]) -> Info:
    digest, size, created, updated, labels = row
    return Info(digest, size, created, updated, labelling.loads(labels))


def _not_found(digest: str) -> errors.NotFound:
    return errors.NotFound(f"content digest {digest}: not found")


def _blob_lookup(info: Info) -> filtering.Lookup:
    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["digest", *_]:
                return info.digest
            case ["labels", *key]:
                return labelling.lookup(info.labels, key)
            case _:
                return None

    return find


def _ref_lookup(ref: str) -> filtering.Lookup:
    return lambda path: ref if path[0] == "ref" else None


def _go_time(time_ns: int) -> str:
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{nanos:09d} +0000 UTC"
