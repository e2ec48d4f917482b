"""What running calls need, while a collection would take it; stores and collector without a daemon."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from longshore.api import errors
from longshore.containerd.content.local import LocalContent
from longshore.containerd.gc import edges
from longshore.containerd.gc.collector import Collector
from longshore.containerd.gc.holds import Holds
from longshore.containerd.gc.mark import Node
from longshore.containerd.metadata import schema
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.driver import Workers
from longshore.containerd.snapshots.local import LocalSnapshotter, Numbers
from longshore.containerd.snapshots.overlay import OverlayDriver
from longshore.containerd.snapshots.snapshotter import Kind
from support.gcgraphs import blob, digest
from support.soak import times

SCOPE = Scope("one")

# The tables of the first version of the schema.
VERSION_1 = frozenset(
    {"meta", "namespaces", "containers", "images", "leases", "lease_resources", "blobs", "ingests"}
    | {"snapshots", "snapshots_trash", "events"}
)


class Slow:
    """An overlay whose children take their time, so that something can happen meanwhile."""

    def __init__(self, root: Path) -> None:
        overlay = self._overlay = OverlayDriver(root)
        self.directory, self.tree, self.mounts = overlay.directory, overlay.tree, overlay.mounts
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def make(self, number: int, parents: Sequence[int], kind: Kind, workers: Workers | None) -> None:
        await self._overlay.make(number, parents, kind, workers)
        if parents:
            self.begun.set()
            await self.go_on.wait()


class World(NamedTuple):
    store: Store
    holds: Holds
    content: LocalContent
    snapshotter: LocalSnapshotter
    driver: Slow
    collector: Collector
    root: Path

    async def collect(self) -> list[tuple[str, str]]:
        done = await self.collector.collect()
        await self.collector.clean_up()
        return [(node.kind, node.id) for node in done.removed]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store, holds = Store(tmp_path / "meta.sqlite"), Holds()
    driver = Slow(tmp_path / "s")
    content = LocalContent(tmp_path / "content", store, holds=holds)
    snapshotter = LocalSnapshotter("test", driver, store, Numbers(store), None, holds)
    snapshotter.start()
    collector = Collector(store, holds, content, {"test": snapshotter})
    yield World(store, holds, content, snapshotter, driver, collector, tmp_path)
    await snapshotter.close()
    content.close()
    store.close()


async def put(content: LocalContent, scope: Scope, number: int) -> None:
    writer = await content.writer(scope, f"put {number}", expected=digest(number))
    if not writer.offset:
        await writer.write(blob(number))
    await writer.commit(0, digest(number), {})
    await writer.close()


async def test_a_parent_stays_while_its_child_is_made(world: World) -> None:
    await world.snapshotter.prepare(SCOPE, "a", "", {})
    await world.snapshotter.commit(SCOPE, "base", "a", {})
    released = asyncio.Event()
    world.holds.on_release = released.set
    making = asyncio.ensure_future(world.snapshotter.prepare(SCOPE, "child", "base", {}))
    await world.driver.begun.wait()
    assert await world.collect() == []
    world.driver.go_on.set()
    await making
    assert released.is_set()  # the scheduler hears that there may be garbage now
    assert await world.collect() == [("snapshots/test", "base"), ("snapshots/test", "child")]
    assert list((world.root / "s" / "snapshots").iterdir()) == []


async def test_an_open_upload_stays_however_old(world: World) -> None:
    writer = await world.content.writer(SCOPE, "ref", expected=digest(1))
    await writer.write(blob(1)[:3])

    def age(transaction: Transaction) -> None:
        transaction.execute("UPDATE ingests SET expires = 1")
        edges.rebuild(transaction)

    await world.store.write(age)
    assert await world.collect() == []
    await writer.close()
    assert await world.collect() == [("ingests", "ref")]
    with pytest.raises(errors.NotFound):
        await world.content.status(SCOPE, "ref")
    assert list((world.root / "content" / "ingest").iterdir()) == []


async def test_a_shared_blob_stays_while_another_namespace_takes_it(world: World) -> None:
    await put(world.content, Scope("two"), 1)
    writer = await world.content.writer(SCOPE, "ref", expected=digest(1))
    assert writer.offset == len(blob(1))
    assert await world.collect() == []
    await writer.commit(0, digest(1), {})
    await writer.close()
    assert await world.collect() == [("content", digest(1))] * 2
    assert list((world.root / "content" / "blobs" / "sha256").iterdir()) == []


async def test_what_mounts_show_is_held(world: World) -> None:
    mounts = await world.snapshotter.prepare(SCOPE, "a", "", {})
    async with world.holds.hold_found(lambda: world.snapshotter.behind(mounts)):
        assert await world.collect() == []
        assert await world.snapshotter.mounts(SCOPE, "a") == mounts
    assert await world.collect() == [("snapshots/test", "a")]


async def test_who_looks_waits_for_a_sweep(world: World) -> None:
    node = Node("one", "snapshots/test", "x")
    with world.holds.sweep() as held:
        assert held == []
        waiting = asyncio.ensure_future(anext(_held(world.holds, node)))
        await asyncio.sleep(0)
        assert not waiting.done() and world.holds.held() == []
    await waiting


async def _held(holds: Holds, node: Node) -> AsyncIterator[None]:
    async with holds.hold(node):
        assert holds.held() == [node]
        yield


async def test_a_blob_that_comes_back_keeps_its_file(world: World) -> None:
    """Removed, and committed again before its file was."""
    await put(world.content, SCOPE, 1)
    assert [node.id for node in (await world.collector.collect()).removed] == [digest(1)]
    await put(world.content, SCOPE, 1)
    await world.content.cleanup()
    opened = await world.content.open(SCOPE, digest(1))
    assert opened.size == len(blob(1))
    assert world.store.read(lambda c: c.execute("SELECT count(*) FROM content_trash").fetchone()) == (0,)
    os.close(opened.fd)


async def test_what_is_not_recorded_is_not_touched(world: World) -> None:
    strange = world.root / "content" / "blobs" / "sha256" / ("0" * 64)
    strange.write_bytes(b"whose?")
    (world.root / "s" / "snapshots" / "4711").mkdir()
    await put(world.content, SCOPE, 1)
    await world.collect()
    assert strange.exists() and (world.root / "s" / "snapshots" / "4711").exists()


async def test_a_removal_that_fails_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(world.content, SCOPE, 1)

    def fail(self: object, digest: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("longshore.containerd.content.files.Files.remove_blob", fail)
        assert await world.collect() == [("content", digest(1))]
    assert len(list((world.root / "content" / "blobs" / "sha256").iterdir())) == 1
    await world.collector.clean_up()
    assert list((world.root / "content" / "blobs" / "sha256").iterdir()) == []


async def test_a_database_from_before(tmp_path: Path) -> None:
    """Version 1 knew no edges: they are derived when the daemon starts, once."""
    path = tmp_path / "meta.sqlite"
    connection = sqlite3.connect(path)
    for statement in schema.SCHEMA.split(";"):
        found = re.match(r"\s*CREATE TABLE (\w+)", statement)
        if found is not None and found[1] in VERSION_1:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("INSERT INTO meta VALUES ('version', '1')")
    rows = [("one", digest(1), '{"containerd.io/gc.root":"1"}'), ("one", digest(2), "{}")]
    connection.executemany("INSERT INTO blobs VALUES (?, ?, 6, 1, 1, ?)", rows)
    connection.commit()
    connection.close()
    store = Store(path)
    try:
        assert await store.write(edges.rebuild_if_needed)
        assert not await store.write(edges.rebuild_if_needed)
        done = await Collector(store, Holds(), None, {}).collect()
        assert [node.id for node in done.removed] == [digest(2)]
    finally:
        store.close()


async def test_very_many_blobs(world: World) -> None:
    """Half of them garbage; the other half in manifests of a hundred. `make soak`: ten thousand."""
    count = times(1000, 10_000)

    def fill(transaction: Transaction) -> None:
        for number in range(count):
            labels = "{}"
            if number % 100 == 0 and number < count // 2:
                names = {f"containerd.io/gc.ref.content.l.{n}": f"d{number + n}" for n in range(1, 100)}
                labels = str(names | {"containerd.io/gc.root": "1"}).replace("'", '"')
            transaction.execute("INSERT INTO blobs VALUES ('one', ?, 1, 1, 1, ?)", (f"d{number}", labels))
        edges.rebuild(transaction)

    await world.store.write(fill)
    done = await world.collector.collect()
    assert len(done.removed) == count // 2
    again = await world.collector.collect()
    assert (again.removed, again.pause) == ((), 0.0)
    print(
        f"{count} blobs: {done.seconds:.3f} s, of these {done.pause:.3f} in the writer; again {again.seconds:.3f} s"
    )
