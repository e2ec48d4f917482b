"""Snapshots of one snapshotter: file systems made of parents, as lists of mounts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from longshore.api.services.snapshots.v1 import snapshots_pb2 as pb
from longshore.api.types.mount_pb2 import Mount
from longshore.client.connection import Connection
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsAsyncStub

SnapshotInfo = pb.Info
Usage = pb.UsageResponse

KIND_NAMES = {pb.VIEW: "View", pb.ACTIVE: "Active", pb.COMMITTED: "Committed"}


class Snapshots:
    """An active snapshot (`prepare`) can be written and becomes a committed one, which can be a parent."""

    def __init__(self, connection: Connection, snapshotter: str) -> None:
        self._connection = connection
        self._stub: SnapshotsAsyncStub = stub(pb.DESCRIPTOR, "Snapshots", connection.channel)
        self.snapshotter = snapshotter

    async def prepare(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        """A writable snapshot on a committed parent, or on nothing. Raises AlreadyExists, NotFound (the parent)."""
        request = pb.PrepareSnapshotRequest(
            snapshotter=self.snapshotter, key=key, parent=parent, labels=labels or {}
        )
        return list((await self._connection.call(self._stub.Prepare, request)).mounts)

    async def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """A read-only snapshot."""
        request = pb.ViewSnapshotRequest(
            snapshotter=self.snapshotter, key=key, parent=parent, labels=labels or {}
        )
        return list((await self._connection.call(self._stub.View, request)).mounts)

    async def mounts(self, key: str) -> list[Mount]:
        """How to mount an active snapshot or a view."""
        request = pb.MountsRequest(snapshotter=self.snapshotter, key=key)
        return list((await self._connection.call(self._stub.Mounts, request)).mounts)

    async def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Freeze the active snapshot `key` under `name`; `key` is gone then. Raises AlreadyExists."""
        request = pb.CommitSnapshotRequest(
            snapshotter=self.snapshotter, name=name, key=key, labels=labels or {}
        )
        await self._connection.call(self._stub.Commit, request)

    async def remove(self, key: str) -> None:
        """Raises NotFound, or FailedPrecondition while it has children."""
        await self._connection.call(
            self._stub.Remove, pb.RemoveSnapshotRequest(snapshotter=self.snapshotter, key=key)
        )

    async def stat(self, key: str) -> SnapshotInfo:
        request = pb.StatSnapshotRequest(snapshotter=self.snapshotter, key=key)
        return (await self._connection.call(self._stub.Stat, request)).info

    async def label(self, key: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """Set these labels and leave the others; an empty value removes one."""
        request = pb.UpdateSnapshotRequest(
            snapshotter=self.snapshotter,
            info=SnapshotInfo(name=key, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{name}" for name in labels]),
        )
        return (await self._connection.call(self._stub.Update, request)).info

    async def usage(self, key: str) -> Usage:
        """Bytes and inodes of this snapshot alone, without its parents."""
        return await self._connection.call(
            self._stub.Usage, pb.UsageRequest(snapshotter=self.snapshotter, key=key)
        )

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        request = pb.ListSnapshotsRequest(snapshotter=self.snapshotter, filters=filters)
        async for block in self._connection.stream(self._stub.List, request):
            for info in block.info:
                yield info

    async def cleanup(self) -> None:
        """Remove directories that no snapshot owns. Raises Unimplemented where the snapshotter can't."""
        await self._connection.call(self._stub.Cleanup, pb.CleanupRequest(snapshotter=self.snapshotter))

    async def list(self, filters: Sequence[str] = ()) -> list[SnapshotInfo]:
        return [info async for info in self.walk(filters)]
