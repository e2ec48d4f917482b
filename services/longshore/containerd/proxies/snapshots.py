"""A snapshotter in another process: we keep the books (keys, leases, parents, collection), it keeps the trees.

It is called by the Snapshots service under names of our making, as containerd
does: ``<namespace>/<number>/<key>``. The table `proxied` has every name that we
have ever used there and not removed, written before the call: what a crash
leaves is found, and nothing is removed there that isn't ours.

A snapshotter that can get a layer by itself answers a Prepare with the label
``containerd.io/snapshot.ref`` by AlreadyExists, and has a snapshot with that
label then: we record it as committed, and tell our caller the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from longshore.api import errors
from longshore.api.namespaces import GRPC_HEADER
from longshore.api.services.snapshots.v1 import snapshots_pb2 as api
from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from longshore.containerd.gc.holds import Holds
from longshore.containerd.gc.mark import Node
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.driver import Workers
from longshore.containerd.snapshots.local import LocalSnapshotter, Numbers
from longshore.containerd.snapshots.snapshotter import TARGET_LABEL, Kind, Mount, Usage

_INHERITED: Final = "containerd.io/snapshot/"  # labels that are for the snapshotter, with TARGET_LABEL


class Backend:
    """The other process. Raises `longshore.api.errors`; Unavailable when it isn't there."""

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self._name, self._stub = name, SnapshotsStub(channel)

    async def ask(self, method: str, namespace: str, request: Any, **fields: Any) -> Any:
        try:
            return await getattr(self._stub, method)(
                request(snapshotter=self._name, **fields), metadata=((GRPC_HEADER, namespace),)
            )
        except grpc.aio.AioRpcError as error:
            raise _meaning(error) from None

    async def list(self, namespace: str, *filters: str) -> AsyncIterator[api.Info]:
        request = api.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        try:
            async for answer in self._stub.List(request, metadata=((GRPC_HEADER, namespace),)):
                for info in answer.info:
                    yield info
        except grpc.aio.AioRpcError as error:
            raise _meaning(error) from None


def _meaning(error: grpc.aio.AioRpcError) -> errors.Error:
    return errors.from_code(error.code().value[0], error.details() or error.code().name.lower())


class _Elsewhere:
    """Stands where local snapshotters have a driver; its trees are nowhere that we know."""

    def directory(self, number: int) -> Path:
        raise NotImplementedError

    tree = directory

    async def make(self, number: int, parents: Sequence[int], kind: Kind, workers: Workers | None) -> None:
        raise NotImplementedError

    def mounts(self, number: int, parents: Sequence[int], kind: Kind) -> Sequence[Mount]:
        raise NotImplementedError


class ProxySnapshotter(LocalSnapshotter):
    """A Snapshotter, see the module."""

    def __init__(self, name: str, backend: Backend, store: Store, numbers: Numbers, holds: Holds) -> None:
        super().__init__(name, _Elsewhere(), store, numbers, None, holds)
        self._backend = backend

    async def recover(self) -> None:
        """What a crash left at the backend goes with the trash."""
        statement = (
            "INSERT INTO snapshots_trash SELECT DISTINCT snapshotter, number FROM proxied"
            " WHERE snapshotter = ? AND number NOT IN (SELECT number FROM snapshots) ON CONFLICT DO NOTHING"
        )
        await self._store.write(lambda transaction: transaction.execute(statement, (self.name,)))
        self.start()

    # -- looking --------------------------------------------------------------------------------------------

    async def mounts(self, scope: Scope, key: str) -> Sequence[Mount]:
        row = self._read(scope, key)
        if row.kind == Kind.COMMITTED:
            raise errors.FailedPrecondition(
                f"failed to get active mount: requested snapshot {self._current(row.number)} not active or view:"
                " failed precondition"
            )
        name = self._current(row.number)
        return _mounts(await self._backend.ask("Mounts", scope.namespace, api.MountsRequest, key=name))

    async def _measure(self, number: int) -> Usage:
        name = self._current(number)
        found = await self._backend.ask("Usage", _namespace(name), api.UsageRequest, key=name)
        return Usage(found.size, found.inodes)

    def behind(self, mounts: Iterable[Mount]) -> list[Node]:
        return []  # mounts of a strange making tell us nothing

    # -- changing -------------------------------------------------------------------------------------------

    async def _make(
        self, scope: Scope, key: str, parent: str, labels: Mapping[str, str], kind: Kind
    ) -> Sequence[Mount]:
        chain = self._store.read(lambda connection: self._parents(connection, scope, parent))
        below = self._current(chain[0]) if chain else ""
        number = self._numbers.next()
        name = f"{scope.namespace}/{number}/{key}"
        await self._note(number, name, current=True)
        method, request = (
            ("Prepare", api.PrepareSnapshotRequest)
            if kind == Kind.ACTIVE
            else ("View", api.ViewSnapshotRequest)
        )
        passed = _passed_on(labels)
        try:
            try:
                answer = await self._backend.ask(
                    method, scope.namespace, request, key=name, parent=below, labels=passed
                )
            except errors.AlreadyExists:
                target = labels.get(TARGET_LABEL)
                if target and await self._adopt(scope, number, target, parent, below, labels):
                    raise errors.AlreadyExists(f'target snapshot "{target}": already exists') from None
                raise
            await self._store.write(
                lambda transaction: self._insert(transaction, scope, number, key, parent, labels, kind)
            )
        except BaseException:
            await self._discard_quietly(number)
            raise
        return _mounts(answer)

    async def _adopt(
        self, scope: Scope, number: int, target: str, parent: str, below: str, labels: Mapping[str, str]
    ) -> bool:
        """Record what the backend has committed by itself as `target`; whether there is such a one."""
        wanted = f'labels."{TARGET_LABEL}"=="{target}",parent=="{below}"'
        async for info in self._backend.list(scope.namespace, wanted):
            if info.labels.get(TARGET_LABEL) == target and info.parent == below:
                break
        else:
            return False

        def adopt(transaction: Transaction) -> None:
            transaction.execute(
                "DELETE FROM proxied WHERE snapshotter = ? AND number = ?", (self.name, number)
            )
            transaction.execute(_NOTE, (self.name, number, info.name, True))
            kept = {key: value for key, value in labels.items() if value}
            self._insert(transaction, scope, number, target, parent, kept, Kind.COMMITTED)

        await self._store.write(adopt)
        return True

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Mapping[str, str], parent: str = ""
    ) -> None:
        row = self._read(scope, key)
        there = name and self._store.read(lambda connection: self._find(connection, scope, name)) is not None
        if there or not name or name == key or row.kind != Kind.ACTIVE or (parent and parent != row.parent):
            await super().commit(scope, name, key, labels, parent)  # knows why it can't be
            return
        labelling.validate(labels, "info.Labels")
        before, after = self._current(row.number), f"{scope.namespace}/{row.number}/{name}"
        await self._note(row.number, after, current=False)
        await self._backend.ask(
            "Commit",
            scope.namespace,
            api.CommitSnapshotRequest,
            name=after,
            key=before,
            labels=_passed_on(labels),
        )
        kept = {word: value for word, value in labels.items() if value}

        def commit(transaction: Transaction) -> bool:
            transaction.execute("DELETE FROM proxied WHERE snapshotter = ? AND name = ?", (self.name, before))
            transaction.execute(
                "UPDATE proxied SET current = 1 WHERE snapshotter = ? AND name = ?", (self.name, after)
            )
            return self._commit(transaction, scope, name, key, kept, parent)

        if await self._store.write(commit):
            # Another one took the name while the backend worked. Ours is committed there and of no use.
            await self.remove(scope, key)
            raise errors.AlreadyExists(f'snapshot "{name}": already exists')

    # -- the trash ------------------------------------------------------------------------------------------

    async def _empty_trash(self) -> None:
        """Parents can't go before their children, whatever the numbers: again, as long as something goes."""
        while True:
            before = len(self._gone)
            try:
                await super()._empty_trash()
                return
            except errors.FailedPrecondition:
                if len(self._gone) == before:
                    raise

    async def _discard(self, numbers: Sequence[int]) -> dict[int, Exception]:
        """Children were made after their parents, and go first."""
        failed: dict[int, Exception] = {}
        for number in sorted(numbers, reverse=True):
            try:
                await self._discard_one(number)
            except Exception as error:
                failed[number] = error
        return failed

    async def _discard_one(self, number: int) -> None:
        for name in self._names(number):
            try:
                await self._backend.ask("Remove", _namespace(name), api.RemoveSnapshotRequest, key=name)
            except errors.NotFound:
                pass
            await self._store.write(
                lambda transaction, name=name: transaction.execute(  # type: ignore[misc]
                    "DELETE FROM proxied WHERE snapshotter = ? AND name = ?", (self.name, name)
                ),
                urgent=True,
            )

    async def _discard_quietly(self, number: int) -> None:
        """After a failure, whose own error matters. What stays is found at the next start."""
        try:
            if self._store.read(
                lambda connection: connection.execute(
                    "SELECT 1 FROM snapshots WHERE number = ?", (number,)
                ).fetchone()
            ):
                return  # adopted
            await self._discard_one(number)
        except errors.Error:
            pass

    async def cleanup(self) -> None:
        await super().cleanup()
        try:
            await self._backend.ask("Cleanup", "default", api.CleanupRequest)
        except errors.Unimplemented:
            pass

    # -- names ----------------------------------------------------------------------------------------------

    async def _note(self, number: int, name: str, *, current: bool) -> None:
        await self._store.write(
            lambda transaction: transaction.execute(_NOTE, (self.name, number, name, current))
        )

    def _current(self, number: int) -> str:
        """What the backend calls a snapshot."""
        statement = "SELECT name FROM proxied WHERE snapshotter = ? AND number = ? AND current"
        row = self._store.read(
            lambda connection: connection.execute(statement, (self.name, number)).fetchone()
        )
        if row is None:
            raise errors.Internal(f"snapshotter {self.name} has lost snapshot {number}: internal")
        return str(row[0])

    def _names(self, number: int) -> list[str]:
        statement = "SELECT name FROM proxied WHERE snapshotter = ? AND number = ?"
        rows = self._store.read(
            lambda connection: connection.execute(statement, (self.name, number)).fetchall()
        )
        return [name for (name,) in rows]


_NOTE: Final = (
    "INSERT INTO proxied (snapshotter, number, name, current) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (snapshotter, name) DO UPDATE SET number = excluded.number, current = excluded.current"
)


def _namespace(name: str) -> str:
    return name.partition("/")[0]


def _passed_on(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key == TARGET_LABEL or key.startswith(_INHERITED)}


def _mounts(answer: Any) -> list[Mount]:
    return [Mount(each.type, each.source, tuple(each.options), each.target) for each in answer.mounts]
