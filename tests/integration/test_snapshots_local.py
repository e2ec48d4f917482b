"""Directory-based snapshotters when things go wrong, and when there are very many layers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from longshore.api import errors
from longshore.containerd.metadata.store import Store
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.driver import Driver, Workers
from longshore.containerd.snapshots.local import LocalSnapshotter, Numbers
from longshore.containerd.snapshots.native import NativeDriver
from longshore.containerd.snapshots.overlay import OverlayDriver
from longshore.containerd.snapshots.snapshotter import Kind, Mount
from longshore.linux import mounts as kernel

SCOPE = Scope("one")
DRIVERS: dict[str, Callable[[Path], Driver]] = {"overlayfs": OverlayDriver, "native": NativeDriver}


@asynccontextmanager
async def running(root: Path, driver: Driver, name: str = "test") -> AsyncIterator[LocalSnapshotter]:
    """A snapshotter on the database in `root`, as after a start of the daemon."""
    store = Store(root / "meta.sqlite")
    snapshotter = LocalSnapshotter(name, driver, store, Numbers(store), None)
    snapshotter.start()
    yield snapshotter
    await snapshotter.close()
    store.close()


def directories(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "snapshots").iterdir())


def show(mounts: Sequence[Mount], place: Path) -> kernel.mounted:
    return kernel.mounted([kernel.Mount(each.type, each.source, each.options) for each in mounts], str(place))


@pytest.mark.parametrize("make", DRIVERS.values(), ids=DRIVERS)
async def test_removed_trees_go(tmp_path: Path, make: Callable[[Path], Driver]) -> None:
    async with running(tmp_path, make(tmp_path / "r")) as snapshotter:
        (mount,) = await snapshotter.prepare(SCOPE, "key", "", {})
        for number in range(600):  # more than is removed without a worker
            (Path(mount.source) / f"d{number % 7}" / f"e{number}").mkdir(parents=True)
            (Path(mount.source) / f"d{number % 7}" / f"e{number}" / "f").touch()
        await snapshotter.remove(SCOPE, "key")
        await snapshotter.cleanup()
        assert directories(tmp_path / "r") == []


@pytest.mark.parametrize("make", DRIVERS.values(), ids=DRIVERS)
async def test_what_a_dead_daemon_removed_goes_at_the_next_start(
    tmp_path: Path, make: Callable[[Path], Driver]
) -> None:
    async with running(tmp_path, make(tmp_path / "r")) as snapshotter:
        await snapshotter.prepare(SCOPE, "stays", "", {})
        await snapshotter.prepare(SCOPE, "goes", "", {})
        await snapshotter.close()  # as if it were killed just now
        await snapshotter.remove(SCOPE, "goes")
    assert directories(tmp_path / "r") == ["1", "2"]
    async with running(tmp_path, make(tmp_path / "r")) as snapshotter:
        await snapshotter.cleanup()
        assert directories(tmp_path / "r") == ["1"]
        assert (await snapshotter.stat(SCOPE, "stays")).kind == Kind.ACTIVE


@pytest.mark.parametrize("make", DRIVERS.values(), ids=DRIVERS)
async def test_what_a_dead_daemon_left_half_made_is_replaced(
    tmp_path: Path, make: Callable[[Path], Driver]
) -> None:
    driver = make(tmp_path / "r")
    async with running(tmp_path, driver) as snapshotter:
        await snapshotter.prepare(SCOPE, "first", "", {})
        (driver.directory(2) / "fs").mkdir(parents=True)
        (driver.directory(2) / "fs" / "junk").touch()
        (mount,) = await snapshotter.prepare(SCOPE, "second", "", {})
        assert os.listdir(mount.source) == []


async def test_strange_directories_are_not_ours_to_remove(tmp_path: Path) -> None:
    driver = OverlayDriver(tmp_path / "r")
    (tmp_path / "r" / "snapshots" / "12345").mkdir()
    async with running(tmp_path, driver) as snapshotter:
        await snapshotter.prepare(SCOPE, "key", "", {})
        await snapshotter.remove(SCOPE, "key")
        await snapshotter.cleanup()
    assert directories(tmp_path / "r") == ["12345"]


class Failing(OverlayDriver):
    def make_quickly(self, number: int, parents: Sequence[int], kind: Kind) -> None:
        super().make_quickly(number, parents, kind)
        raise OSError(28, "No space left on device")


class FailingSlowly(NativeDriver):
    async def make(self, number: int, parents: Sequence[int], kind: Kind, workers: Workers | None) -> None:
        await super().make(number, parents, kind, workers)
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("driver", [Failing, FailingSlowly])
async def test_a_full_disk(driver: type[Failing | FailingSlowly], tmp_path: Path) -> None:
    async with running(tmp_path, driver(tmp_path / "r")) as snapshotter:
        with pytest.raises(
            errors.ResourceExhausted, match="failed to create snapshot: no space left on device"
        ):
            await snapshotter.prepare(SCOPE, "key", "", {})
        with pytest.raises(errors.NotFound):
            await snapshotter.stat(SCOPE, "key")
        assert directories(tmp_path / "r") == []


class Slow(NativeDriver):
    """Takes its time, so that something can happen meanwhile."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def make(self, number: int, parents: Sequence[int], kind: Kind, workers: Workers | None) -> None:
        await super().make(number, parents, kind, workers)
        if parents:
            self.begun.set()
            await self.go_on.wait()


async def test_the_parent_goes_meanwhile(tmp_path: Path) -> None:
    driver = Slow(tmp_path / "r")
    async with running(tmp_path, driver) as snapshotter:
        await snapshotter.prepare(SCOPE, "a", "", {})
        await snapshotter.commit(SCOPE, "base", "a", {})
        making = asyncio.ensure_future(snapshotter.prepare(SCOPE, "child", "base", {}))
        await driver.begun.wait()
        await snapshotter.remove(SCOPE, "base")
        driver.go_on.set()
        with pytest.raises(errors.NotFound, match="parent snapshot base does not exist"):
            await making
        await snapshotter.cleanup()
        assert directories(tmp_path / "r") == []


async def test_two_want_the_same_key(tmp_path: Path) -> None:
    async with running(tmp_path, OverlayDriver(tmp_path / "r")) as snapshotter:
        results = await asyncio.gather(
            *(snapshotter.prepare(SCOPE, "key", "", {}) for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(result, errors.AlreadyExists) for result in results) == 4
        assert len(directories(tmp_path / "r")) == 1


async def test_126_layers_under_a_long_root(tmp_path: Path) -> None:
    """Docker's limit of layers; their paths fill four pages, and mount(2) takes one."""
    root = tmp_path / ("r" * 250)
    root = root / ("s" * max(1, 120 - len(str(root)) - 1)) if len(str(root)) < 119 else root
    async with running(tmp_path, OverlayDriver(root)) as snapshotter:
        parent = ""
        for number in range(126):
            await snapshotter.prepare(SCOPE, "key", parent, {})
            tree = root / "snapshots" / str(number + 1) / "fs"
            (tree / f"file{number}").touch()
            (tree / "same").write_text(str(number))
            await snapshotter.commit(SCOPE, f"layer{number}", "key", {})
            parent = f"layer{number}"
        (tmp_path / "place").mkdir()
        for make, name in ((snapshotter.prepare, "active"), (snapshotter.view, "view")):
            mounts = await make(SCOPE, name, parent, {})
            assert len(mounts[0].options[-1]) > 4 * 4096
            with show(mounts, tmp_path / "place") as place:
                assert len(os.listdir(place)) == 127
                assert (Path(place) / "same").read_text() == "125"
                if name == "active":
                    (Path(place) / "new").touch()


async def test_leases(tmp_path: Path) -> None:
    async with running(tmp_path, OverlayDriver(tmp_path / "r")) as snapshotter:
        store = snapshotter._store
        await store.write(
            lambda transaction: transaction.execute(
                "INSERT INTO leases VALUES ('one', 'lease', x''), ('one', 'l2', x'')"
            )
        )
        scope, second = Scope("one", "lease"), Scope("one", "l2")

        def held(lease: str) -> list[tuple[str, str]]:
            statement = "SELECT type, id FROM lease_resources WHERE lease = ? ORDER BY id"
            return store.read(lambda connection: connection.execute(statement, (lease,)).fetchall())

        await snapshotter.prepare(scope, "key", "", {})
        assert held("lease") == [("snapshots/test", "key")]
        await snapshotter.commit(scope, "base", "key", {})
        assert held("lease") == [("snapshots/test", "base")]
        await snapshotter.prepare(second, "other", "", {})
        with pytest.raises(errors.AlreadyExists):
            await snapshotter.commit(second, "base", "other", {})
        with pytest.raises(errors.AlreadyExists):
            await snapshotter.prepare(second, "x", "", {"containerd.io/snapshot.ref": "base"})
        assert held("l2") == [("snapshots/test", "base"), ("snapshots/test", "other")]
        await snapshotter.remove(scope, "base")
        assert held("lease") == []
