"""The Snapshots service: picks the snapshotter that a request names, and speaks for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from google.protobuf.empty_pb2 import Empty

from longshore.api import errors
from longshore.api.services.snapshots.v1.snapshots_pb2 import (
    CleanupRequest,
    CommitSnapshotRequest,
    ListSnapshotsRequest,
    ListSnapshotsResponse,
    MountsRequest,
    MountsResponse,
    PrepareSnapshotRequest,
    PrepareSnapshotResponse,
    RemoveSnapshotRequest,
    StatSnapshotRequest,
    StatSnapshotResponse,
    UpdateSnapshotRequest,
    UpdateSnapshotResponse,
    UsageRequest,
    UsageResponse,
    ViewSnapshotRequest,
    ViewSnapshotResponse,
)
from longshore.api.services.snapshots.v1.snapshots_pb2 import Info as InfoMessage
from longshore.api.services.snapshots.v1.snapshots_pb2 import Kind as KindMessage
from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsServicer
from longshore.api.types.mount_pb2 import Mount as MountMessage
from longshore.containerd import rpc
from longshore.containerd.masks import relabelling
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import Info, Kind, Mount, Snapshotter
from longshore.containerd.times import timestamp


class SnapshotsService(SnapshotsServicer):
    """`scope`: for whom a call is; by default the caller's namespace and lease."""

    def __init__(
        self, snapshotters: Mapping[str, Snapshotter], scope: Callable[[rpc.Call], Scope] | None = None
    ) -> None:
        self._snapshotters = snapshotters
        self._scope = scope or _scope

    @rpc.unary(mutates=True)
    async def Prepare(self, request: PrepareSnapshotRequest, call: rpc.Call) -> PrepareSnapshotResponse:
        snapshotter, scope = self._named(request.snapshotter), self._scope(call)
        mounts = await snapshotter.prepare(scope, request.key, request.parent, request.labels)
        return PrepareSnapshotResponse(mounts=_mount_messages(mounts))

    @rpc.unary(mutates=True)
    async def View(self, request: ViewSnapshotRequest, call: rpc.Call) -> ViewSnapshotResponse:
        snapshotter, scope = self._named(request.snapshotter), self._scope(call)
        mounts = await snapshotter.view(scope, request.key, request.parent, request.labels)
        return ViewSnapshotResponse(mounts=_mount_messages(mounts))

    @rpc.unary()
    async def Mounts(self, request: MountsRequest, call: rpc.Call) -> MountsResponse:
        mounts = await self._named(request.snapshotter).mounts(self._scope(call), request.key)
        return MountsResponse(mounts=_mount_messages(mounts))

    @rpc.unary(mutates=True)
    async def Commit(self, request: CommitSnapshotRequest, call: rpc.Call) -> Empty:
        snapshotter, scope = self._named(request.snapshotter), self._scope(call)
        await snapshotter.commit(scope, request.name, request.key, request.labels, request.parent)
        return Empty()

    @rpc.unary(mutates=True)
    async def Remove(self, request: RemoveSnapshotRequest, call: rpc.Call) -> Empty:
        await self._named(request.snapshotter).remove(self._scope(call), request.key)
        return Empty()

    @rpc.unary()
    async def Stat(self, request: StatSnapshotRequest, call: rpc.Call) -> StatSnapshotResponse:
        info = await self._named(request.snapshotter).stat(self._scope(call), request.key)
        return StatSnapshotResponse(info=_info_message(info))

    @rpc.unary(mutates=True)
    async def Update(self, request: UpdateSnapshotRequest, call: rpc.Call) -> UpdateSnapshotResponse:
        snapshotter, scope, name = self._named(request.snapshotter), self._scope(call), request.info.name
        if not name:
            raise errors.InvalidArgument("snapshot name must not be empty: invalid argument")
        relabel = relabelling(
            request.info.labels,
            request.update_mask.paths,
            lambda path: f'cannot update "{path}" field on snapshot "{name}": invalid argument',
        )
        return UpdateSnapshotResponse(info=_info_message(await snapshotter.update(scope, name, relabel)))

    @rpc.server_stream
    async def List(
        self, request: ListSnapshotsRequest, call: rpc.Call
    ) -> AsyncGenerator[ListSnapshotsResponse, None]:
        snapshotter = self._named(request.snapshotter)
        async for block in snapshotter.walk(self._scope(call), request.filters):
            yield ListSnapshotsResponse(info=[_info_message(info) for info in block])

    @rpc.unary()
    async def Usage(self, request: UsageRequest, call: rpc.Call) -> UsageResponse:
        usage = await self._named(request.snapshotter).usage(self._scope(call), request.key)
        return UsageResponse(size=usage.size, inodes=usage.inodes)

    @rpc.unary(mutates=True)
    async def Cleanup(self, request: CleanupRequest, call: rpc.Call) -> Empty:
        await self._named(request.snapshotter).cleanup()
        return Empty()

    def _named(self, name: str) -> Snapshotter:
        if not name:
            raise errors.InvalidArgument("snapshotter argument missing: invalid argument")
        snapshotter = self._snapshotters.get(name)
        if snapshotter is None:
            raise errors.InvalidArgument(f"snapshotter not loaded: {name}: invalid argument")
        return snapshotter


def _scope(call: rpc.Call) -> Scope:
    return Scope(call.namespace, call.lease)


def _mount_messages(mounts: Sequence[Mount]) -> list[MountMessage]:
    return [
        MountMessage(type=mount.type, source=mount.source, target=mount.target, options=mount.options)
        for mount in mounts
    ]


_KINDS = {kind: KindMessage.Value(kind.name) for kind in Kind}


def _info_message(info: Info) -> InfoMessage:
    return InfoMessage(
        name=info.name,
        parent=info.parent,
        kind=_KINDS[info.kind],
        created_at=timestamp(info.created),
        updated_at=timestamp(info.updated),
        labels=info.labels,
    )
