"""Garbage collection: generated graphs collected alike by Debian's containerd, by ours, and by the model.

Only what containerd 1.6 knows; the rest is compared with the model alone.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings

from longshore.api.services.content.v1 import content_pb2 as content
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.services.leases.v1 import leases_pb2 as leases
from longshore.api.services.snapshots.v1 import snapshots_pb2 as snapshots
from longshore.containerd.gc import edges
from longshore.containerd.metadata.store import Transaction
from support import require
from support.daemon import COLLECTION_WHEN_ASKED, Longshore
from support.gcgraphs import GC, Builder, Graph, Snapshot, digest, graphs, image_message, survivors
from support.realdaemon import RealContainerd
from support.soak import times

numbers = itertools.count()


@contextlib.contextmanager
def opened(daemon: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        yield channel


@pytest.fixture(scope="module")
def real() -> Iterator[grpc.Channel]:
    require.root()
    require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2")
    with RealContainerd(config=COLLECTION_WHEN_ASKED) as daemon, opened(daemon) as channel:
        yield channel


@pytest.fixture(scope="module")
def our_daemon() -> Iterator[Longshore]:
    require.root()
    with Longshore(config=COLLECTION_WHEN_ASKED) as daemon:
        yield daemon
        daemon.stop()
        assert_edges_were_maintained(daemon.root / "io.containerd.metadata.v1.sqlite" / "meta.sqlite")
        left = [path.name for path in daemon.root.rglob("snapshots/*")]
        known = len(list(daemon.root.rglob("blobs/sha256/*")))
        assert not left and not known, "files of removed objects"
        daemon.start()


@pytest.fixture(scope="module")
def ours(our_daemon: Longshore) -> Iterator[grpc.Channel]:
    with opened(our_daemon) as channel:
        yield channel


@pytest.fixture(params=["real", "ours"])
def either(request: pytest.FixtureRequest) -> Builder:
    return Builder(request.getfixturevalue(request.param), f"g{next(numbers)}")


def assert_edges_were_maintained(path: Path) -> None:
    """What the services wrote, bit by bit, is what their records say as a whole."""
    connection = sqlite3.connect(path, isolation_level=None)

    def all_rows() -> list[Any]:
        return [
            sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in ("edges", "used")
        ]

    written = all_rows()
    connection.execute("BEGIN")
    edges.rebuild(Transaction(connection))
    assert written == all_rows()
    connection.execute("ROLLBACK")
    connection.close()


@settings(max_examples=times(15, 300), deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs(old=True))
def test_both_leave_the_same(real: grpc.Channel, ours: grpc.Channel, graph: Graph) -> None:
    namespace = f"g{next(numbers)}"
    expected = survivors(graph, time.time_ns())
    for name, channel in {"real": real, "ours": ours}.items():
        builder = Builder(channel, namespace)
        builder.build(graph)
        builder.collect()
        left = builder.objects()
        builder.clear()
        assert left == expected, name


@settings(max_examples=times(15, 300), deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs())
def test_ours_leaves_what_the_newest_would(ours: grpc.Channel, graph: Graph) -> None:
    """Back references, conditions, images that expire: 1.6 has none of these."""
    for ingest in graph.ingests.values():
        ingest.expired = False  # a day can't be waited for
    builder = Builder(ours, f"g{next(numbers)}")
    # Unlike the graph's other objects an expired image isn't in the guard's lease; it waits, as no collection comes.
    builder.build(graph)
    expected = survivors(graph, time.time_ns())
    builder.collect()
    left = builder.objects()
    builder.clear()
    assert left == expected


def another_image(builder: Builder) -> None:
    """Made, and deleted with sync: a collection."""
    image = image_message("example.com/other", digest(90), {})
    builder.images.Create(images.CreateImageRequest(image=image), metadata=builder.plain)
    request = images.DeleteImageRequest(name=image.name, sync=True)
    builder.images.Delete(request, metadata=builder.plain, timeout=60)


def test_plain_content_goes_with_the_next_sync_delete(either: Builder) -> None:
    """T7: content without lease and label goes; under a lease, or labelled as a root, it stays."""
    builder = either
    builder.leases.Create(leases.CreateRequest(id=builder.GUARD), metadata=builder.plain)
    builder.put(digest(1), {}, leased=False)
    builder.put(digest(2), {}, leased=True)
    builder.put(digest(3), {GC + "root": "1"}, leased=False)
    another_image(builder)
    assert {id for kind, id in builder.objects() if kind == "content"} == {digest(2), digest(3)}
    with pytest.raises(grpc.RpcError) as caught:
        builder.content.Info(content.InfoRequest(digest=digest(1)), metadata=builder.plain)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    builder.collect()
    assert builder.objects() == {("content", digest(3))}
    builder.content.Delete(content.DeleteContentRequest(digest=digest(3)), metadata=builder.plain)


def test_the_layer_is_there_already_and_leased(either: Builder, request: pytest.FixtureRequest) -> None:
    """T8: Prepare of an existing target is AlreadyExists, and the lease has the target."""
    builder = either
    builder.leases.Create(leases.CreateRequest(id=builder.GUARD), metadata=builder.plain)
    builder.snapshot(Snapshot("overlayfs", "layer", "", True, {}))
    builder.leases.Create(leases.CreateRequest(id="mine"), metadata=builder.plain)
    mine = (*builder.plain, ("containerd-lease", "mine"))
    with pytest.raises(grpc.RpcError) as caught:
        builder.snapshots.Prepare(
            snapshots.PrepareSnapshotRequest(
                snapshotter="overlayfs", key="extract", labels={"containerd.io/snapshot.ref": "layer"}
            ),
            metadata=mine,
        )
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    held = builder.leases.ListResources(
        leases.ListResourcesRequest(id="mine"), metadata=builder.plain
    ).resources
    # 1.6 undoes the lease together with the refusal: there the layer can go before it is used.
    kept = {("snapshots/overlayfs", "layer")} if request.node.callspec.params["either"] == "ours" else set()
    assert {(each.type, each.id) for each in held} == kept
    builder.collect()
    assert builder.objects() == {("leases", "mine"), *kept}
    builder.leases.Delete(leases.DeleteRequest(id="mine", sync=True), metadata=builder.plain, timeout=60)
    assert builder.objects() == set()


def test_bytes_stay_while_any_namespace_has_them(either: Builder, request: pytest.FixtureRequest) -> None:
    builder = either
    other = Builder(request.getfixturevalue(request.node.callspec.params["either"]), f"g{next(numbers)}")
    for each in (builder, other):
        each.leases.Create(leases.CreateRequest(id=each.GUARD), metadata=each.plain)
        each.put(digest(5), {})
    builder.collect()
    assert builder.objects() == set()
    answer = other.content.Read(content.ReadContentRequest(digest=digest(5)), metadata=other.plain)
    assert b"".join(block.data for block in answer) == b"blob 5"
    other.collect()
    assert other.objects() == set()
