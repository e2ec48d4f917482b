"""Clients that go away at any moment: every object is whole or absent, no ref stays locked, no file is left over."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from longshore.api import errors
from longshore.api.services.content.v1 import content_pb2 as content
from longshore.api.services.diff.v1.diff_pb2 import ApplyRequest, DiffRequest
from longshore.api.services.diff.v1.diff_pb2_grpc import DiffStub
from longshore.api.services.snapshots.v1 import snapshots_pb2 as snapshots
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.mount_pb2 import Mount
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import Kind
from support.daemon import NO_COLLECTION, Longshore
from support.layers import digest, layer, member
from support.remote import RemoteContent, RemoteSnapshotter, RemoteWriter, channel
from support.soak import times

SCOPE = Scope("cancelled")
HEADERS = [("containerd-namespace", SCOPE.namespace)]
LAYER = layer(*(member(f"d{number}/f", data=b"x" * 5000) for number in range(30)))
OCI = "application/vnd.oci.image.layer.v1.tar"
LONGEST = 0.012  # seconds: the slowest of these calls takes about as long


class Storm:
    """Random calls on random objects, each cancelled after a random time."""

    def __init__(self, opened: grpc.aio.Channel, seed: int) -> None:
        self.random = random.Random(seed)
        self.content, self.snapshots = RemoteContent(opened), RemoteSnapshotter(opened, "overlayfs")
        self.diff = DiffStub(opened)
        self.calls: list[Callable[[], Any]] = [
            self.write,
            self.write,
            self.delete,
            self.abort,
            self.prepare,
            self.prepare,
            self.view,
            self.commit,
            self.commit,
            self.remove,
            self.apply,
            self.make_diff,
        ]

    async def run(self, count: int) -> None:
        for _ in range(count):
            call = await self.random.choice(self.calls)()
            await asyncio.sleep(self.random.random() * LONGEST)
            call.cancel()

    def key(self) -> str:
        return f"key{self.random.randrange(6)}"

    def name(self) -> str:
        return f"name{self.random.randrange(4)}"

    def data(self) -> bytes:
        return b"%d" % self.random.randrange(5) * 200_000

    async def write(self) -> Any:
        data = self.data()
        call = self.content.stub.Write(metadata=HEADERS)
        ref = f"ref{self.random.randrange(4)}"
        self.sending = asyncio.ensure_future(_send(call, ref, data))
        return call

    async def delete(self) -> Any:
        request = content.DeleteContentRequest(digest=digest(self.data()))
        return self.content.stub.Delete(request, metadata=HEADERS)

    async def abort(self) -> Any:
        request = content.AbortRequest(ref=f"ref{self.random.randrange(4)}")
        return self.content.stub.Abort(request, metadata=HEADERS)

    async def prepare(self) -> Any:
        parent = self.random.choice(["", self.name()])
        request = snapshots.PrepareSnapshotRequest(snapshotter="overlayfs", key=self.key(), parent=parent)
        return self.snapshots.stub.Prepare(request, metadata=HEADERS)

    async def view(self) -> Any:
        request = snapshots.ViewSnapshotRequest(snapshotter="overlayfs", key=self.key(), parent=self.name())
        return self.snapshots.stub.View(request, metadata=HEADERS)

    async def commit(self) -> Any:
        request = snapshots.CommitSnapshotRequest(snapshotter="overlayfs", key=self.key(), name=self.name())
        return self.snapshots.stub.Commit(request, metadata=HEADERS)

    async def remove(self) -> Any:
        key = self.random.choice([self.key(), self.name()])
        request = snapshots.RemoveSnapshotRequest(snapshotter="overlayfs", key=key)
        return self.snapshots.stub.Remove(request, metadata=HEADERS)

    async def apply(self) -> Any:
        descriptor = Descriptor(media_type=OCI, digest=digest(LAYER), size=len(LAYER))
        return self.diff.Apply(ApplyRequest(diff=descriptor, mounts=await self.mounts()), metadata=HEADERS)

    async def make_diff(self) -> Any:
        request = DiffRequest(right=await self.mounts(), media_type=OCI, ref="diff")
        return self.diff.Diff(request, metadata=HEADERS)

    async def mounts(self) -> list[Mount]:
        try:
            found = await self.snapshots.mounts(SCOPE, self.key())
        except errors.Error:
            return []
        return [Mount(type=each.type, source=each.source, options=each.options) for each in found]


async def _send(call: Any, ref: str, data: bytes) -> None:
    half = len(data) // 2
    try:
        for fields in (
            {"action": content.WriteAction.STAT, "ref": ref},
            {"action": content.WriteAction.WRITE, "offset": 0, "data": data[:half]},
            {"action": content.WriteAction.WRITE, "offset": half, "data": data[half:]},
            {"action": content.WriteAction.COMMIT, "offset": len(data)},
        ):
            await call.write(content.WriteContentRequest(**fields))
    except (asyncio.CancelledError, asyncio.InvalidStateError, grpc.RpcError):
        pass


async def test_whole_or_absent() -> None:
    with Longshore(config=NO_COLLECTION) as daemon:
        async with channel(daemon.address) as opened:
            storm = Storm(opened, seed=11)
            writer = await storm.content.writer(SCOPE, "layer")
            await writer.write(LAYER)
            await writer.commit(len(LAYER), digest(LAYER), {})
            await writer.close()
            await storm.run(times(150, 3000))
            await check_content(storm.content, daemon.root)
            await check_snapshots(storm.snapshots, daemon.root)


async def test_kill_9_in_the_storm() -> None:
    """Whatever was being done: after a new start blobs are whole, snapshots have their trees, work goes on."""
    with Longshore(config=NO_COLLECTION) as daemon:
        for round in range(times(3, 60)):
            async with channel(daemon.address) as opened:
                storm = Storm(opened, seed=round)
                with contextlib.suppress(errors.AlreadyExists):
                    await put(storm.content, LAYER)
                await storm.run(40)
                daemon.kill9()
            daemon.start()
            async with channel(daemon.address) as opened:
                await check_after_kill(
                    RemoteContent(opened), RemoteSnapshotter(opened, "overlayfs"), daemon.root
                )


async def put(store: RemoteContent, data: bytes) -> None:
    writer = await store.writer(SCOPE, f"put{len(data)}", expected=digest(data))
    await writer.restart()
    await writer.write(data)
    await writer.commit(len(data), digest(data), {})
    await writer.close()


async def check_after_kill(store: RemoteContent, snapshotter: RemoteSnapshotter, root: Path) -> None:
    blobs = root / "io.containerd.content.v1.content" / "blobs" / "sha256"
    for name in os.listdir(blobs):
        assert hashlib.sha256((blobs / name).read_bytes()).hexdigest() == name
    known = {info.digest async for block in store.list(SCOPE, []) for info in block}
    # A file that became whole just before the kill may have no row yet.
    assert known <= {f"sha256:{name}" for name in os.listdir(blobs)}
    for status in await store.statuses(SCOPE, []):
        writer = await store.writer(SCOPE, status.ref)
        assert writer.offset <= status.offset
        await writer.close()
        await store.abort(SCOPE, status.ref)
    await snapshotter.cleanup()
    numbers = set(os.listdir(root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"))
    rows = [info async for block in snapshotter.walk(SCOPE, []) for info in block]
    assert len(numbers) >= len(rows)
    for info in rows:
        usage = await snapshotter.usage(SCOPE, info.name)
        assert usage.inodes >= 1 or info.kind == Kind.VIEW
        if info.kind != Kind.COMMITTED:
            assert await snapshotter.mounts(SCOPE, info.name)
    key = f"after{time.time_ns()}"
    (mount,) = await snapshotter.prepare(SCOPE, key, "", {})
    assert os.listdir(mount.source) == []
    await snapshotter.remove(SCOPE, key)


async def check_content(store: RemoteContent, root: Path) -> None:
    place = root / "io.containerd.content.v1.content"
    # Work that was begun goes on, and holds its ref until it is done; opening a ref waits a quarter of a second.
    for status in await store.statuses(SCOPE, []):
        await (await freed(store, status.ref)).close()
    # So does an abort whose row is gone and whose directory isn't yet, or a commit the other way round.
    for attempt in range(1200):
        known = {info.digest async for block in store.list(SCOPE, []) for info in block}
        files = {f"sha256:{name}" for name in os.listdir(place / "blobs" / "sha256")}
        uploads, rows = len(os.listdir(place / "ingest")), len(await store.statuses(SCOPE, []))
        if files == known and uploads == rows:
            break
        assert attempt < 1199, (files ^ known, uploads, rows)
        await asyncio.sleep(0.05)
    for name in os.listdir(place / "blobs" / "sha256"):
        assert hashlib.sha256((place / "blobs" / "sha256" / name).read_bytes()).hexdigest() == name


async def check_snapshots(snapshotter: RemoteSnapshotter, root: Path) -> None:
    # A call that was cancelled may still be at work when the next one is answered: remove is, too.
    for attempt in range(1200):
        await snapshotter.cleanup()
        rows = [info async for block in snapshotter.walk(SCOPE, []) for info in block]
        directories = os.listdir(root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots")
        if len(directories) == len(rows):
            break
        assert attempt < 1199, (directories, rows)
        await asyncio.sleep(0.05)
    for info in rows:
        usage = await snapshotter.usage(SCOPE, info.name)
        assert usage.inodes >= 1 or info.kind == Kind.VIEW


async def test_a_ref_is_free_when_its_writer_has_gone() -> None:
    with Longshore(config=NO_COLLECTION) as daemon:
        async with channel(daemon.address) as opened:
            store = RemoteContent(opened)
            for number in range(20):
                call = store.stub.Write(metadata=HEADERS)
                await call.write(content.WriteContentRequest(action=content.WriteAction.STAT, ref="ref"))
                await call.read()
                chunk = b"x" * 1_000_000
                await call.write(
                    content.WriteContentRequest(
                        action=content.WriteAction.WRITE, offset=number * len(chunk), data=chunk
                    )
                )
                if number % 2:
                    await call.read()
                call.cancel()
                writer = await freed(store, "ref")
                missing = (number + 1) * len(chunk) - writer.offset
                assert missing in (0, len(chunk))
                await writer.write(chunk[:missing])
                await writer.close()


async def freed(store: RemoteContent, ref: str) -> RemoteWriter:
    """A writer of a ref whose last one goes: who opens it waits a quarter of a second for that, we wait longer."""
    for attempt in range(240):
        try:
            return await store.writer(SCOPE, ref)
        except errors.Unavailable:
            assert attempt < 239
    raise AssertionError
