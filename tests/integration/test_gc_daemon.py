"""Garbage collection in a running daemon: expiry by itself, kill -9 in its middle, and the commands."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from longshore.api.services.gc.v1 import gc_pb2 as gc
from longshore.api.services.gc.v1.gc_pb2_grpc import GCStub
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.services.leases.v1 import leases_pb2 as leases
from support.daemon import LONGSHORE, Longshore
from support.gcgraphs import GC, Builder, Lease, Snapshot, digest, image_message
from support.process import eventually
from support.soak import times
from support.subscription import Subscription


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as running:
        yield running


@pytest.fixture
def builder(daemon: Longshore, request: pytest.FixtureRequest) -> Iterator[Builder]:
    """In a namespace of the test's own; all goes at the end."""
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        made = Builder(channel, f"t{abs(hash(request.node.name)) % 10**9}")
        made.leases.Create(leases.CreateRequest(id=made.GUARD), metadata=made.plain)
        yield made
        made.clear()


def soon(seconds: float) -> str:
    moment = time.time() + seconds
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(moment))}.{int(moment % 1 * 1000):03d}Z"


def command(daemon: Longshore, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LONGSHORE, "gc", "--address", daemon.address, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_what_expires_goes_by_itself(daemon: Longshore, builder: Builder) -> None:
    """A lease, what it holds, and an image: nobody deletes anything, and nobody asks."""
    with Subscription(daemon.address) as events:
        # A slow machine may need longer to make them than they live: then others, that live longer.
        made = (number for number, seconds in enumerate((0.4, 4, 40)) if put_for(builder, number, seconds))
        number = next(made)
        eventually(lambda: builder.objects() == {("leases", builder.GUARD)}, what="all of it to go")
        topics = {"/images/delete", "/snapshot/remove"}
        eventually(lambda: topics <= {each.topic for each in events.envelopes}, what="the events")
        mine = [each.topic for each in events.envelopes if each.namespace == builder.namespace]
    if number == 0:
        assert [mine.count(topic) for topic in (*topics, "/content/delete")] == [1, 1, 0]
    directories = daemon.root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    eventually(lambda: not os.listdir(directories), what="the directories to go")


def put_for(builder: Builder, number: int, seconds: float) -> bool:
    """A lease with what it holds, and an image, that expire in so many seconds; whether all was there before."""
    moment = time.time() + seconds
    until = {GC + "expire": soon(seconds)}
    lease = f"short{number}"
    try:
        builder.leases.Create(leases.CreateRequest(id=lease, labels=until), metadata=builder.plain)
        builder.leased = (*builder.plain, ("containerd-lease", lease))
        builder.put(digest(1), {})
        builder.snapshot(Snapshot("overlayfs", f"s{number}", "", True, {}))
        image = image_message(f"example.com/{lease}", digest(1), until)
        builder.images.Create(images.CreateImageRequest(image=image), metadata=builder.plain)
    except grpc.RpcError:
        assert time.time() > moment - 0.01  # labels have milliseconds
        return False
    there = len(builder.objects())
    if time.time() > moment:
        return False
    assert there == 5
    return True


def test_a_deletion_is_followed_by_a_collection(daemon: Longshore, builder: Builder) -> None:
    builder.put(digest(2), {})
    builder.leases.Delete(leases.DeleteRequest(id=builder.GUARD), metadata=builder.plain)
    eventually(lambda: builder.objects() == set(), what="the blob to go")


def test_plan_and_explain(daemon: Longshore, builder: Builder) -> None:
    layer, manifest = digest(4), digest(5)
    builder.put(layer, {})
    builder.put(manifest, {GC + "ref.content.l.0": layer})
    image = image_message("example.com/i", manifest, {})
    builder.images.Create(images.CreateImageRequest(image=image), metadata=builder.plain)
    builder.snapshot(Snapshot("overlayfs", "base", "", True, {}))
    builder.snapshot(Snapshot("overlayfs", "top", "base", False, {}))
    here = ("--namespace", builder.namespace)
    told = command(daemon, *here, "explain", layer)
    assert told.stdout.splitlines() == [
        f"{builder.namespace}  content  {layer}: kept",
        f"  leases  {builder.GUARD}  (lease)",
        f"    -> content  {layer}  (leased)",
    ]
    assert command(daemon, *here, "plan").stdout == "0 objects, 0 B\n"
    flat = leases.CreateRequest(id="flat", labels={GC + "flat": "1"})
    builder.leases.Create(flat, metadata=builder.plain)
    resource = leases.Resource(type="snapshots/overlayfs", id="top")
    builder.leases.AddResource(
        leases.AddResourceRequest(id="flat", resource=resource), metadata=builder.plain
    )
    builder.collect()
    assert command(daemon, *here, "explain", f"content:{layer}").stdout.splitlines()[1:] == [
        "  images  example.com/i  (image)",
        f"    -> content  {manifest}  (target)",
        f"      -> content  {layer}  (containerd.io/gc.ref.content.l.0)",
    ]
    assert command(daemon, *here, "explain", "snapshot:base").stdout.splitlines()[1:] == [
        "  leases  flat  (lease)",
        "    -> snapshots/overlayfs  top  (leased flat)",
        "      -> snapshots/overlayfs  base  (parent)",
    ]
    asked = command(daemon, *here, "explain", "--json", "flat")
    assert json.loads(asked.stdout)["explanations"][0]["kept"] is True
    missing = command(daemon, *here, "explain", "nothing")
    assert missing.returncode == 1 and "object nothing: not found" in missing.stderr


def test_why_nothing_keeps_it(tmp_path: Path) -> None:
    """With collections far away: what is planned, with sizes, and why."""
    config = 'version = 2\n[plugins."io.containerd.gc.v1.scheduler"]\nstartup_delay = "1h"\n'
    with Longshore(config=config) as daemon, grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        builder = Builder(channel, daemon.namespace)
        old = leases.CreateRequest(id="old", labels={GC + "expire": "2001-01-01T00:00:00Z"})
        builder.leases.Create(old, metadata=builder.plain)
        builder.leased = (*builder.plain, ("containerd-lease", "old"))
        builder.put(digest(1), {GC + "ref.content": digest(2)})
        builder.put(digest(2), {}, leased=False)
        told = command(daemon, "plan").stdout.splitlines()
        assert told[-1] == "3 objects, 12 B" and len(told) == 4
        assert command(daemon, "explain", digest(2)).stdout.splitlines() == [
            f"{daemon.namespace}  content  {digest(2)}: nothing keeps it",
            f"  blob {digest(1)} refers to blob {digest(2)} (containerd.io/gc.ref.content),"
            " but nothing keeps that either",
            f"  lease old, which holds blob {digest(1)}, has expired at 2001-01-01T00:00:00Z",
        ]
        assert command(daemon, "run").stdout.splitlines()[-1].startswith("3 objects removed")
        assert builder.objects() == set()
        assert GCStub(channel).Plan(gc.PlanRequest()).garbage == []
        assert "io.containerd.gc.v1" in daemon.ctr("plugins", "ls").stdout


def test_a_containerd_that_is_not_ours_is_told_so(tmp_path: Path) -> None:
    nobody = subprocess.run(
        [LONGSHORE, "gc", "--address", tmp_path / "nobody.sock", "plan"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert nobody.returncode == 1 and "Traceback" not in nobody.stderr


# -- kill -9 ------------------------------------------------------------------------------------------------


def fill(builder: Builder) -> None:
    builder.leases.Create(leases.CreateRequest(id=builder.GUARD), metadata=builder.plain)
    for number in range(100):
        builder.put(digest(number), {})
    for number in range(20):
        parent = f"s{number - 1}" if number % 5 else ""
        builder.snapshot(Snapshot("overlayfs", f"s{number}", parent, True, {}))
    for ref in ("r0", "r1"):
        builder.ingest(ref, "", leased=True)
    builder.leases.Create(leases.CreateRequest(id="stays"), metadata=builder.plain)
    for kind, id in (("content", digest(7)), ("snapshots/overlayfs", "s13")):
        resource = leases.AddResourceRequest(id="stays", resource=leases.Resource(type=kind, id=id))
        builder.leases.AddResource(resource, metadata=builder.plain)


STAYS = {
    ("leases", "stays"),
    ("content", digest(7)),
    *(("snapshots/overlayfs", f"s{number}") for number in range(10, 14)),
}


def test_kill_9_in_the_middle() -> None:
    """All or nothing of a collection is kept, and what a dead one left of files goes with the next."""
    with Longshore() as daemon:
        for attempt in range(times(4, 50)):
            with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
                builder = Builder(channel, f"k{attempt}")
                fill(builder)
                asking = threading.Thread(target=_collect_and_be_cut_off, args=(builder,))
                asking.start()
                time.sleep(
                    random.Random(attempt).uniform(0, 0.03)
                )  # a random moment, not a wait for something
                daemon.kill9()
                asking.join()
            daemon.start()
            with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
                builder = Builder(channel, f"k{attempt}")
                left = builder.objects()
                assert left >= STAYS
                GCStub(channel).Collect(gc.CollectRequest(), timeout=120)
                guarded = ("leases", builder.GUARD) in builder.objects()
                assert builder.objects() == (left if guarded else STAYS)
                files_match_rows(daemon)
                builder.clear()
        files_match_rows(daemon)


def _collect_and_be_cut_off(builder: Builder) -> None:
    try:
        builder.collect()
    except grpc.RpcError:
        pass


def files_match_rows(daemon: Longshore) -> None:
    """Every blob, ingest and snapshot has its files, and there are no others."""
    database = daemon.root / "io.containerd.metadata.v1.sqlite" / "meta.sqlite"
    with sqlite3.connect(database) as connection:
        blobs = {digest for (digest,) in connection.execute("SELECT DISTINCT digest FROM blobs")}
        ingests = {directory for (directory,) in connection.execute("SELECT directory FROM ingests")}
        numbers = {str(number) for (number,) in connection.execute("SELECT number FROM snapshots")}
    connection.close()
    content = daemon.root / "io.containerd.content.v1.content"
    assert {f"sha256:{path.name}" for path in (content / "blobs" / "sha256").iterdir()} == blobs
    assert {path.name for path in (content / "ingest").iterdir()} <= ingests
    snapshots = daemon.root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    assert {path.name for path in snapshots.iterdir()} == numbers


def test_collections_do_not_disturb_each_other_or_calls(daemon: Longshore, builder: Builder) -> None:
    """Many ask at once while others make and drop things."""
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        stub = GCStub(channel)
        asked = [stub.Collect.future(gc.CollectRequest(), timeout=120) for _ in range(20)]
        for number in range(30):
            builder.put(digest(number), {})
        lease = Lease({})
        builder.leases.Create(leases.CreateRequest(id="l", labels=lease.labels), metadata=builder.plain)
        for future in asked:
            future.result()
    assert {id for kind, id in builder.objects() if kind == "content"} == {digest(n) for n in range(30)}
