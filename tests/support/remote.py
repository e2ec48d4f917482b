"""Content stores and snapshotters at the other end of a socket, with the same interface as those in the daemon.

So one suite of tests runs over our classes, over our daemon, and over Debian's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from longshore.api import errors
from longshore.api.services.content.v1 import content_pb2 as content
from longshore.api.services.content.v1.content_pb2_grpc import ContentStub
from longshore.api.services.snapshots.v1 import snapshots_pb2 as snapshots
from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from longshore.containerd.content.store import Blob, Status
from longshore.containerd.content.store import Info as BlobInfo
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import Info, Kind, Mount, Usage
from longshore.containerd.times import nanoseconds

Relabel = Callable[[dict[str, str]], dict[str, str]]

OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_metadata_size", 1 << 20),
    ("grpc.absolute_max_metadata_size", 1 << 20),
]


@asynccontextmanager
async def channel(address: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"unix:{address}", options=OPTIONS) as opened:
        yield opened


def headers(scope: Scope) -> list[tuple[str, str]]:
    pairs = [("containerd-namespace", scope.namespace)]
    return [*pairs, ("containerd-lease", scope.lease)] if scope.lease else pairs


def meaning(error: grpc.aio.AioRpcError) -> errors.Error:
    return errors.from_code(error.code().value[0], error.details() or "")


async def ask(call: Any, request: Any, scope: Scope) -> Any:
    try:
        return await call(request, metadata=headers(scope), timeout=60)
    except grpc.aio.AioRpcError as error:
        raise meaning(error) from None


async def read_stream(call: Any, request: Any, scope: Scope) -> AsyncIterator[Any]:
    try:
        async for answer in call(request, metadata=headers(scope), timeout=60):
            yield answer
    except grpc.aio.AioRpcError as error:
        raise meaning(error) from None


async def send(call: Any, message: Message) -> None:
    """Send on a stream, if the server still listens; what it said last is what a read answers.

    Not by the call's own `write`: when the server has ended the stream, that takes the call for failed and
    drops what is still to be read.
    """
    await call._metadata_sent.wait()
    with contextlib.suppress(cygrpc.InternalError):
        await call._cython_call.send_serialized_message(message.SerializeToString())


class RemoteContent:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = ContentStub(channel)

    async def info(self, scope: Scope, digest: str) -> BlobInfo:
        return blob_info((await ask(self.stub.Info, content.InfoRequest(digest=digest), scope)).info)

    async def update(self, scope: Scope, digest: str, relabel: Relabel) -> BlobInfo:
        labels = relabel((await self.info(scope, digest)).labels)
        info = content.Info(digest=digest, labels=labels)
        request = content.UpdateRequest(info=info, update_mask=FieldMask(paths=["labels"]))
        return blob_info((await ask(self.stub.Update, request, scope)).info)

    async def list(self, scope: Scope, filters: Sequence[str]) -> AsyncIterator[Sequence[BlobInfo]]:
        async for block in read_stream(self.stub.List, content.ListContentRequest(filters=filters), scope):
            yield [blob_info(info) for info in block.info]

    async def delete(self, scope: Scope, digest: str) -> None:
        await ask(self.stub.Delete, content.DeleteContentRequest(digest=digest), scope)

    async def open(self, scope: Scope, digest: str) -> Blob:
        fd, size = os.memfd_create("blob"), 0
        async for piece in read_stream(self.stub.Read, content.ReadContentRequest(digest=digest), scope):
            assert piece.offset == size
            size += os.write(fd, piece.data)
        return Blob(fd, size)

    async def writer(self, scope: Scope, ref: str, *, total: int = 0, expected: str = "") -> RemoteWriter:
        writer = RemoteWriter(self.stub.Write(metadata=headers(scope)), ref, total, expected)
        await writer.ask(action=content.WriteAction.STAT, ref=ref, total=total, expected=expected)
        return writer

    async def status(self, scope: Scope, ref: str) -> Status:
        return ingest_status((await ask(self.stub.Status, content.StatusRequest(ref=ref), scope)).status)

    async def statuses(self, scope: Scope, filters: Sequence[str]) -> Sequence[Status]:
        answer = await ask(self.stub.ListStatuses, content.ListStatusesRequest(filters=filters), scope)
        return sorted((ingest_status(status) for status in answer.statuses), key=lambda status: status.ref)

    async def abort(self, scope: Scope, ref: str) -> None:
        await ask(self.stub.Abort, content.AbortRequest(ref=ref), scope)


class RemoteWriter:
    def __init__(self, call: Any, ref: str, total: int, expected: str) -> None:
        self._call = call
        self.status = Status(ref, 0, total, expected, 0, 0)
        self._digest = ""

    async def ask(self, **fields: Any) -> None:
        try:
            await send(self._call, content.WriteContentRequest(**fields))
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise meaning(error) from None
        if answer is grpc.aio.EOF:
            raise errors.from_code((await self._call.code()).value[0], await self._call.details())
        started, updated = nanoseconds(answer.started_at), nanoseconds(answer.updated_at)
        self.status = self.status._replace(offset=answer.offset, started=started, updated=updated)
        self._digest = answer.digest

    @property
    def offset(self) -> int:
        return self.status.offset

    async def digest(self) -> str:
        return self._digest

    async def write(self, data: bytes) -> None:
        await self.ask(action=content.WriteAction.WRITE, data=data, offset=self.offset)

    async def restart(self) -> None:
        await self.ask(action=content.WriteAction.WRITE, offset=0)

    async def commit(self, size: int, expected: str, labels: Mapping[str, str]) -> str:
        await self.ask(
            action=content.WriteAction.COMMIT,
            offset=self.offset,
            total=size,
            expected=expected,
            labels=labels,
        )
        return self._digest

    async def close(self) -> None:
        if not self._call.done():
            await self._call.done_writing()
            while await self._call.read() is not grpc.aio.EOF:
                pass


class RemoteSnapshotter:
    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self.stub = SnapshotsStub(channel)
        self.name = name

    async def stat(self, scope: Scope, key: str) -> Info:
        request = snapshots.StatSnapshotRequest(snapshotter=self.name, key=key)
        return snapshot_info((await ask(self.stub.Stat, request, scope)).info)

    async def update(self, scope: Scope, key: str, relabel: Relabel) -> Info:
        labels = relabel((await self.stat(scope, key)).labels)
        info = snapshots.Info(name=key, labels=labels)
        request = snapshots.UpdateSnapshotRequest(
            snapshotter=self.name, info=info, update_mask=FieldMask(paths=["labels"])
        )
        return snapshot_info((await ask(self.stub.Update, request, scope)).info)

    async def usage(self, scope: Scope, key: str) -> Usage:
        answer = await ask(self.stub.Usage, snapshots.UsageRequest(snapshotter=self.name, key=key), scope)
        return Usage(answer.size, answer.inodes)

    async def mounts(self, scope: Scope, key: str) -> Sequence[Mount]:
        return mounts(
            await ask(self.stub.Mounts, snapshots.MountsRequest(snapshotter=self.name, key=key), scope)
        )

    async def prepare(
        self, scope: Scope, key: str, parent: str, labels: Mapping[str, str]
    ) -> Sequence[Mount]:
        request = snapshots.PrepareSnapshotRequest(
            snapshotter=self.name, key=key, parent=parent, labels=labels
        )
        return mounts(await ask(self.stub.Prepare, request, scope))

    async def view(self, scope: Scope, key: str, parent: str, labels: Mapping[str, str]) -> Sequence[Mount]:
        request = snapshots.ViewSnapshotRequest(snapshotter=self.name, key=key, parent=parent, labels=labels)
        return mounts(await ask(self.stub.View, request, scope))

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Mapping[str, str], parent: str = ""
    ) -> None:
        request = snapshots.CommitSnapshotRequest(
            snapshotter=self.name, name=name, key=key, labels=labels, parent=parent
        )
        await ask(self.stub.Commit, request, scope)

    async def remove(self, scope: Scope, key: str) -> None:
        await ask(self.stub.Remove, snapshots.RemoveSnapshotRequest(snapshotter=self.name, key=key), scope)

    async def walk(self, scope: Scope, filters: Sequence[str]) -> AsyncIterator[Sequence[Info]]:
        request = snapshots.ListSnapshotsRequest(snapshotter=self.name, filters=filters)
        async for block in read_stream(self.stub.List, request, scope):
            yield [snapshot_info(info) for info in block.info]

    async def cleanup(self) -> None:
        await ask(self.stub.Cleanup, snapshots.CleanupRequest(snapshotter=self.name), Scope("any"))


def blob_info(info: content.Info) -> BlobInfo:
    return BlobInfo(
        info.digest, info.size, nanoseconds(info.created_at), nanoseconds(info.updated_at), dict(info.labels)
    )


def ingest_status(status: content.Status) -> Status:
    return Status(
        status.ref,
        status.offset,
        status.total,
        status.expected,
        nanoseconds(status.started_at),
        nanoseconds(status.updated_at),
    )


def snapshot_info(info: snapshots.Info) -> Info:
    created, updated = nanoseconds(info.created_at), nanoseconds(info.updated_at)
    return Info(info.name, info.parent, Kind(info.kind), created, updated, dict(info.labels))


def mounts(answer: Any) -> list[Mount]:
    return [Mount(each.type, each.source, tuple(each.options), each.target) for each in answer.mounts]
