"""Proxy plugins of our daemon: snapshotters that come and go, that bring layers themselves, differs, and nonsense."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from longshore.api import errors
from longshore.api.services.diff.v1 import diff_pb2 as diffs
from longshore.api.services.diff.v1 import diff_pb2_grpc as diff_grpc
from longshore.api.services.introspection.v1.introspection_pb2 import PluginsRequest
from longshore.api.services.introspection.v1.introspection_pb2_grpc import IntrospectionStub
from longshore.api.services.snapshots.v1 import snapshots_pb2 as api
from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import (
    SnapshotsServicer,
    add_SnapshotsServicer_to_server,
)
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import TARGET_LABEL, Kind
from support import process
from support.daemon import NO_COLLECTION, Longshore
from support.remote import RemoteSnapshotter, ask, channel
from support.served import Served, served

SCOPE = Scope("proxied")


@pytest.fixture
def copies() -> Iterator[Served]:
    with served() as running:
        yield running


async def test_what_is_removed_goes_there_too_children_first(copies: Served) -> None:
    with Longshore(config=NO_COLLECTION + copies.config("copies")) as daemon:
        async with channel(daemon.address) as opened:
            snapshots = RemoteSnapshotter(opened, "copies")
            await snapshots.prepare(SCOPE, "a", "", {})
            await snapshots.commit(SCOPE, "base", "a", {})
            await snapshots.prepare(SCOPE, "b", "base", {})
            await snapshots.commit(SCOPE, "top", "b", {})
            assert len(copies.trees()) == 2
            await snapshots.remove(SCOPE, "top")
            await snapshots.remove(SCOPE, "base")
            await snapshots.cleanup()
        process.eventually(lambda: copies.trees() == [], what="the trees are gone")


async def test_one_that_is_not_there_is_unavailable_and_comes_back(copies: Served) -> None:
    with Longshore(config=NO_COLLECTION + copies.config("copies")) as daemon:
        async with channel(daemon.address) as opened:
            snapshots = RemoteSnapshotter(opened, "copies")
            mounts = await snapshots.prepare(SCOPE, "stays", "", {})
            await asyncio.to_thread(copies.stop, signal.SIGKILL)
            with pytest.raises(errors.Unavailable):
                await snapshots.prepare(SCOPE, "lost", "", {})
            assert (await snapshots.stat(SCOPE, "stays")).kind == Kind.ACTIVE
            await RemoteSnapshotter(opened, "native").prepare(SCOPE, "other", "", {})
            await asyncio.to_thread(daemon.kill9)
        await asyncio.to_thread(daemon.start)
        await asyncio.to_thread(copies.start)
        async with channel(daemon.address) as opened:
            snapshots = RemoteSnapshotter(opened, "copies")
            found = await _when_available(snapshots)
            assert found == mounts
            await snapshots.remove(SCOPE, "stays")
            await snapshots.cleanup()
        process.eventually(lambda: copies.trees() == [], what="the trees are gone")


async def _when_available(snapshots: RemoteSnapshotter) -> Any:
    async with asyncio.timeout(60):
        while True:
            try:
                return await snapshots.mounts(SCOPE, "stays")
            except errors.Unavailable:
                await asyncio.sleep(0.05)


class Lazy(SnapshotsServicer):
    """A snapshotter that has every layer already."""

    def __init__(self) -> None:
        self.names: dict[str, api.Info] = {}
        self.removed: list[str] = []

    def Prepare(self, request: api.PrepareSnapshotRequest, context: grpc.ServicerContext) -> Any:
        target = request.labels.get(TARGET_LABEL)
        if not target:
            return api.PrepareSnapshotResponse()
        name = f"lazy-{target}"
        info = api.Info(name=name, parent=request.parent, kind=api.COMMITTED, labels=request.labels)
        self.names[name] = info
        context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{target}: already exists")

    def List(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield api.ListSnapshotsResponse(info=self.names.values())

    def Remove(self, request: api.RemoveSnapshotRequest, context: grpc.ServicerContext) -> Empty:
        self.removed.append(request.key)
        return Empty()


class OnlyOurs(diff_grpc.DiffServicer):
    """A differ for a media type of its own."""

    def Apply(self, request: diffs.ApplyRequest, context: grpc.ServicerContext) -> Any:
        if request.diff.media_type != "application/ours":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not mine: not implemented")
        return diffs.ApplyResponse(applied=Descriptor(digest="sha256:ours"))


@contextmanager
def serving(address: Path, add: Any, servicer: Any) -> Iterator[str]:
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        add(servicer, server)
        server.add_insecure_port(f"unix:{address}")
        server.start()
        try:
            yield str(address)
        finally:
            server.stop(0).wait()


@pytest.fixture
async def opened(short_tmp: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A daemon with one of each; no collection takes the layers that no lease holds."""
    lazy, differ = short_tmp / "lazy", short_tmp / "differ"
    config = f"""version = 3
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "1h"
schedule_delay = "1h"
[proxy_plugins.lazy]
type = "snapshot"
address = "{lazy}"
capabilities = ["rebase"]
[proxy_plugins.lazy.exports]
root = "/lazy"
[proxy_plugins.ours]
type = "diff"
address = "{differ}"
[proxy_plugins.store]
type = "sandbox"
address = "{differ}"
[proxy_plugins.native]
type = "snapshot"
address = "{lazy}"
[plugins."io.containerd.service.v1.diff-service"]
default = ["ours", "walking"]
"""
    with (
        serving(lazy, add_SnapshotsServicer_to_server, Lazy()),  # type: ignore[abstract]
        serving(differ, diff_grpc.add_DiffServicer_to_server, OnlyOurs()),  # type: ignore[abstract]
        Longshore(config=config) as daemon,
    ):
        async with channel(daemon.address) as found:
            yield found


async def test_a_snapshotter_that_brings_layers_itself(opened: grpc.aio.Channel) -> None:
    snapshots = RemoteSnapshotter(opened, "lazy")
    with pytest.raises(errors.AlreadyExists, match="target snapshot"):
        await snapshots.prepare(SCOPE, "extract-1", "", {TARGET_LABEL: "chain1"})
    with pytest.raises(errors.AlreadyExists):
        await snapshots.prepare(SCOPE, "extract-2", "chain1", {TARGET_LABEL: "chain2"})
    top = await snapshots.stat(SCOPE, "chain2")
    assert (top.kind, top.parent) == (Kind.COMMITTED, "chain1")
    await snapshots.prepare(SCOPE, "container", "chain2", {})


async def test_differs_are_asked_in_order(opened: grpc.aio.Channel) -> None:
    stub = diff_grpc.DiffStub(opened)
    ours = diffs.ApplyRequest(diff=Descriptor(media_type="application/ours"))
    assert (await ask(stub.Apply, ours, SCOPE)).applied.digest == "sha256:ours"
    other = diffs.ApplyRequest(diff=Descriptor(media_type="application/other"))
    with pytest.raises(errors.Error, match="no processor for media-type"):
        await ask(stub.Apply, other, SCOPE)


async def test_the_list_of_plugins_has_them(opened: grpc.aio.Channel) -> None:
    found = await ask(IntrospectionStub(opened).Plugins, PluginsRequest(), SCOPE)
    plugins = {(each.type, each.id, each.init_err.code): each for each in found.plugins}
    lazy = plugins["io.containerd.snapshotter.v1", "lazy", 0]
    assert lazy.exports == {"root": "/lazy"} and lazy.capabilities == ["rebase"]
    assert ("io.containerd.differ.v1", "ours", 0) in plugins
    assert ("io.containerd.sandbox.v1", "store", 12) in plugins
    assert ("io.containerd.snapshotter.v1", "native", 6) in plugins
