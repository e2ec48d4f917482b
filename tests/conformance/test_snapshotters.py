"""What `longshore.containerd.snapshots.snapshotter` promises, held against every implementation.

Add yours to LOCAL, with a function that makes its driver, or to REMOTE.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from longshore.api import errors
from longshore.containerd.metadata.store import Store
from longshore.containerd.proxies.example import CopyDriver
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.driver import Driver
from longshore.containerd.snapshots.local import LocalSnapshotter, Numbers
from longshore.containerd.snapshots.native import NativeDriver
from longshore.containerd.snapshots.overlay import OverlayDriver
from longshore.containerd.snapshots.snapshotter import Info, Kind, Mount, Snapshotter, Usage
from longshore.linux import mounts as kernel
from support import require
from support.remote import RemoteSnapshotter, channel

LOCAL: dict[str, Callable[[Path], Driver]] = {
    "overlayfs": OverlayDriver,
    "native": NativeDriver,
    "copies": CopyDriver,
}
# Copies are a proxy plugin of each daemon: the example, in a process of its own.
REMOTE = [f"{whose} daemon/{name}" for whose in ("our", "real") for name in ("overlayfs", "native", "copies")]


@pytest.fixture(params=[*LOCAL, *REMOTE])
async def snapshotter(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Snapshotter]:
    require.root()
    where, _, name = request.param.rpartition("/")
    async with AsyncExitStack() as stack:
        if where:
            address = request.getfixturevalue("our_address" if where == "our daemon" else "real_address")
            yield RemoteSnapshotter(await stack.enter_async_context(channel(address)), name)
            return
        database = Store(tmp_path / "meta.sqlite")
        stack.callback(database.close)
        local = LocalSnapshotter(name, LOCAL[name](tmp_path / "root"), database, Numbers(database), None)
        local.start()
        stack.push_async_callback(local.close)
        yield local


@contextmanager
def seen(mounts: Sequence[Mount], place: Path) -> Iterator[Path]:
    """The tree that mounts show."""
    place.mkdir(exist_ok=True)
    plain = [kernel.Mount(mount.type, mount.source, mount.options, mount.target) for mount in mounts]
    with kernel.mounted(plain, str(place)):
        yield place


def key() -> str:
    return f"extract-{uuid.uuid4()} sha256:x"


async def layers(
    snapshotter: Snapshotter, scope: Scope, place: Path, *changes: Callable[[Path], object]
) -> list[str]:
    """Commit one snapshot per change, each on the last; their names."""
    names: list[str] = []
    for change in changes:
        active = key()
        mounts = await snapshotter.prepare(scope, active, names[-1] if names else "", {})
        with seen(mounts, place) as root:
            change(root)
        names.append(f"chain-{uuid.uuid4()}")
        await snapshotter.commit(scope, names[-1], active, {})
    return names


async def walked(snapshotter: Snapshotter, scope: Scope, *filters: str) -> list[Info]:
    return [info async for block in snapshotter.walk(scope, filters) for info in block]


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


async def test_the_way_of_the_manual(snapshotter: Snapshotter, scope: Scope, tmp_path: Path) -> None:
    place = tmp_path / "place"
    first, second = await layers(snapshotter, scope, place, write("a", "1"), write("b", "2"))
    mounts = await snapshotter.prepare(scope, "container", second, {})
    with seen(mounts, place) as root:
        assert {path.name: path.read_text() for path in root.iterdir()} == {"a": "1", "b": "2"}
        (root / "a").unlink()
        (root / "c").write_text("3")
    assert list(await snapshotter.mounts(scope, "container")) == list(mounts)
    with seen(await snapshotter.mounts(scope, "container"), place) as root:
        assert sorted(path.name for path in root.iterdir()) == ["b", "c"]
    await snapshotter.remove(scope, "container")
    for name, names in ((first, ["a"]), (second, ["a", "b"])):
        with seen(await snapshotter.view(scope, f"view {name}", name, {}), place) as root:
            assert sorted(path.name for path in root.iterdir()) == names
            with pytest.raises(OSError, match="Read-only"):
                (root / "x").touch()


async def test_what_stat_says(snapshotter: Snapshotter, scope: Scope) -> None:
    await snapshotter.prepare(scope, "active", "", {"a": "1"})
    active = await snapshotter.stat(scope, "active")
    assert active[:3] == ("active", "", Kind.ACTIVE) and active.labels == {"a": "1"}
    assert active.created == active.updated > 0
    await snapshotter.commit(scope, "base", "active", {"b": "2"})
    base = await snapshotter.stat(scope, "base")
    assert base[:3] == ("base", "", Kind.COMMITTED) and base.labels == {"b": "2"}
    assert base.created >= active.created
    await snapshotter.view(scope, "view", "base", {})
    assert (await snapshotter.stat(scope, "view"))[:3] == ("view", "base", Kind.VIEW)
    with pytest.raises(errors.NotFound, match="snapshot active does not exist: not found"):
        await snapshotter.stat(scope, "active")


async def test_a_key_is_free_after_commit(snapshotter: Snapshotter, scope: Scope) -> None:
    for number in range(3):
        await snapshotter.prepare(scope, "key", f"name{number - 1}" if number else "", {})
        await snapshotter.commit(scope, f"name{number}", "key", {})
    assert [info.name for info in await walked(snapshotter, scope)] == ["name0", "name1", "name2"]


async def test_what_exists_is_refused(snapshotter: Snapshotter, scope: Scope) -> None:
    await snapshotter.prepare(scope, "a", "", {})
    await snapshotter.commit(scope, "base", "a", {})
    await snapshotter.prepare(scope, "b", "", {})
    for name in ("base", "b"):
        for make in (snapshotter.prepare, snapshotter.view):
            with pytest.raises(errors.AlreadyExists, match=f'snapshot "{name}": already exists'):
                await make(scope, name, "", {})
    with pytest.raises(errors.AlreadyExists, match='snapshot "base": already exists'):
        await snapshotter.commit(scope, "base", "b", {})
    assert (await snapshotter.stat(scope, "b")).kind == Kind.ACTIVE


async def test_parents(snapshotter: Snapshotter, scope: Scope) -> None:
    for make in (snapshotter.prepare, snapshotter.view):
        with pytest.raises(errors.NotFound, match="parent snapshot none does not exist: not found"):
            await make(scope, "x", "none", {})
    await snapshotter.prepare(scope, "active", "", {})
    with pytest.raises(errors.InvalidArgument, match="is not committed snapshot: invalid argument"):
        await snapshotter.prepare(scope, "x", "active", {})
    with pytest.raises(errors.NotFound):
        await snapshotter.stat(scope, "x")


async def test_only_active_ones_are_committed(
    snapshotter: Snapshotter, scope: Scope, request: pytest.FixtureRequest
) -> None:
    if "real daemon/native" in request.node.name:
        pytest.xfail("Debian's measures a view before it looks what it is, and finds no directory")
    await snapshotter.prepare(scope, "a", "", {})
    await snapshotter.commit(scope, "base", "a", {})
    await snapshotter.view(scope, "view", "base", {})
    for name in ("view", "base"):
        with pytest.raises(errors.FailedPrecondition, match="is not active: failed precondition"):
            await snapshotter.commit(scope, "other", name, {})
    with pytest.raises(errors.NotFound, match="snapshot none does not exist: not found"):
        await snapshotter.commit(scope, "other", "none", {})
    assert [info.name for info in await walked(snapshotter, scope)] == ["base", "view"]


async def test_mounts(snapshotter: Snapshotter, scope: Scope) -> None:
    await snapshotter.prepare(scope, "a", "", {})
    await snapshotter.commit(scope, "base", "a", {})
    with pytest.raises(errors.FailedPrecondition, match="not active or view: failed precondition"):
        await snapshotter.mounts(scope, "base")
    with pytest.raises(errors.NotFound):
        await snapshotter.mounts(scope, "none")


async def test_remove(snapshotter: Snapshotter, scope: Scope) -> None:
    await snapshotter.prepare(scope, "a", "", {})
    await snapshotter.commit(scope, "base", "a", {})
    await snapshotter.prepare(scope, "child", "base", {})
    with pytest.raises(
        errors.FailedPrecondition, match="cannot remove snapshot with child: failed precondition"
    ):
        await snapshotter.remove(scope, "base")
    await snapshotter.remove(scope, "child")
    await snapshotter.remove(scope, "base")
    assert await walked(snapshotter, scope) == []
    with pytest.raises(errors.NotFound, match="snapshot base does not exist: not found"):
        await snapshotter.remove(scope, "base")
    assert await snapshotter.prepare(scope, "base", "", {})


async def test_namespaces(snapshotter: Snapshotter, scope: Scope) -> None:
    other = Scope(scope.namespace + "x")
    await snapshotter.prepare(scope, "key", "", {"mine": "1"})
    with pytest.raises(errors.NotFound):
        await snapshotter.stat(other, "key")
    mounts = await snapshotter.prepare(other, "key", "", {})
    assert mounts != await snapshotter.mounts(scope, "key")
    await snapshotter.remove(scope, "key")
    assert (await snapshotter.stat(other, "key")).labels == {}


async def test_labels(snapshotter: Snapshotter, scope: Scope) -> None:
    await snapshotter.prepare(scope, "key", "", {"a": "1", "b": "2"})
    before = await snapshotter.stat(scope, "key")
    after = await snapshotter.update(scope, "key", lambda labels: labels | {"a": "", "c": "3"})
    assert after.labels == {"b": "2", "c": "3"} and after.updated > before.updated
    assert await snapshotter.stat(scope, "key") == after
    with pytest.raises(errors.InvalidArgument, match="label key and value"):
        await snapshotter.update(scope, "key", lambda labels: {"k": "v" * 4096})
    with pytest.raises(errors.InvalidArgument, match="label key and value"):
        await snapshotter.prepare(scope, "other", "", {"k": "v" * 4096})
    with pytest.raises(errors.NotFound):
        await snapshotter.update(scope, "none", lambda labels: labels)


async def test_the_layer_is_there_already(snapshotter: Snapshotter, scope: Scope) -> None:
    await snapshotter.prepare(scope, "a", "", {})
    await snapshotter.commit(scope, "chain", "a", {})
    with pytest.raises(errors.AlreadyExists, match='target snapshot "chain": already exists'):
        await snapshotter.prepare(scope, "b", "", {"containerd.io/snapshot.ref": "chain"})
    with pytest.raises(errors.NotFound):
        await snapshotter.stat(scope, "b")
    assert await snapshotter.prepare(scope, "b", "", {"containerd.io/snapshot.ref": "other"})


async def test_walk(snapshotter: Snapshotter, scope: Scope) -> None:
    assert await walked(snapshotter, scope) == []
    await snapshotter.prepare(scope, "a", "", {})
    await snapshotter.commit(scope, "base", "a", {"which": "base"})
    for number in range(120):
        await snapshotter.view(scope, f"view{number:03}", "base", {})
    await snapshotter.prepare(scope, "zactive", "base", {})
    blocks = [[info.name for info in block] async for block in snapshotter.walk(scope, [])]
    assert [len(block) for block in blocks] == [100, 22]
    assert [name for block in blocks for name in block] == [
        "base",
        *(f"view{number:03}" for number in range(120)),
        "zactive",
    ]

    async def names(*filters: str) -> list[str]:
        return [info.name for info in await walked(snapshotter, scope, *filters)]

    assert await names("kind==active") == ["zactive"]
    assert await names("kind==committed") == ["base"]
    assert await names("labels.which==base", "name==view007") == ["base", "view007"]
    assert await names("parent==base,kind!=view") == ["zactive"]
    assert len(await names("name~=^view1")) == 20


async def test_usage(snapshotter: Snapshotter, scope: Scope, tmp_path: Path) -> None:
    def fill(root: Path) -> None:
        (root / "big").write_bytes(os.urandom(100_000))
        (root / "d").mkdir()
        os.link(root / "big", root / "d/same")

    (name,) = await layers(snapshotter, scope, tmp_path / "place", fill)
    usage = await snapshotter.usage(scope, name)
    assert usage.inodes == 3 and 100_000 < usage.size < 130_000
    assert await snapshotter.usage(scope, name) == usage
    await snapshotter.prepare(scope, "active", "", {})
    empty = await snapshotter.usage(scope, "active")
    assert isinstance(empty, Usage) and empty.inodes == 1
    with pytest.raises(errors.NotFound):
        await snapshotter.usage(scope, "none")


async def test_what_filesystems_get_wrong(snapshotter: Snapshotter, scope: Scope, tmp_path: Path) -> None:
    """Whiteouts, renames, opaque directories, hard links, modes and owners survive commit and copy."""

    def base(root: Path) -> None:
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        (root / "d").mkdir()
        (root / "d/old").write_text("old")
        (root / "x").write_text("x")
        os.link(root / "x", root / "y")
        os.chown(root / "x", 7, 8)
        (root / "link").symlink_to("nowhere")
        os.mkfifo(root / "fifo")
        os.setxattr(root / "x", "user.color", b"blue")

    def change(root: Path) -> None:
        (root / "tmp/f").write_text("f")
        (root / "d/old").unlink()
        (root / "d").rmdir()
        (root / "d").mkdir()
        (root / "d/new").write_text("new")
        (root / "link").unlink()
        (root / "y").rename(root / "z")

    names = await layers(snapshotter, scope, tmp_path / "place", base, change)
    with seen(await snapshotter.prepare(scope, "top", names[-1], {}), tmp_path / "place") as root:
        assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
        assert [path.name for path in (root / "d").iterdir()] == ["new"]
        assert sorted(path.name for path in root.iterdir()) == ["d", "fifo", "tmp", "x", "z"]
        status = (root / "x").stat()
        assert (status.st_uid, status.st_gid) == (7, 8)
        assert os.getxattr(root / "x", "user.color") == b"blue"
        assert (root / "z").read_text() == "x"


async def test_owner_of_the_root(snapshotter: Snapshotter, scope: Scope, tmp_path: Path) -> None:
    (name,) = await layers(snapshotter, scope, tmp_path / "place", lambda root: os.chown(root, 33, 44))
    with seen(await snapshotter.prepare(scope, "top", name, {}), tmp_path / "place") as root:
        assert (root.stat().st_uid, root.stat().st_gid) == (33, 44)


async def test_a_lease_that_is_unknown(snapshotter: Snapshotter, scope: Scope) -> None:
    with pytest.raises(errors.NotFound, match="lease does not exist: not found"):
        await snapshotter.prepare(scope._replace(lease="none"), "key", "", {})
    with pytest.raises(errors.NotFound):
        await snapshotter.stat(scope, "key")
