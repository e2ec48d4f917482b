"""The volumes part by itself: a state file, a zygote, folders; local mounts in a namespace of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longshore.api import errors
from longshore.dockerd.errors import Conflict, ServerError
from longshore.dockerd.records import Container, ContainerConfig, HostConfig, MountPoint
from longshore.dockerd.state import Put, State
from longshore.dockerd.volumes.documents import ANONYMOUS
from longshore.dockerd.volumes.manager import Volumes
from longshore.zygote.client import Zygote

pytestmark = pytest.mark.root


class Events:
    """Remembers what is published."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, dict[str, str]]] = []

    def publish(self, type: str, action: str, actor: str, attributes: Mapping[str, str]) -> None:
        self.seen.append((type, action, actor, dict(attributes)))


class Place:
    """A data root, and the part on it, which may be stopped and made anew."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.root, self.events, self.zygote = folder, Events(), zygote
        self.state = State(str(folder / "state.db"))

    async def volumes(self) -> Volumes:
        config: Any = SimpleNamespace(data_root=str(self.root))
        events: Any = self.events
        made = Volumes(self.state, events, config, self.zygote)
        await made.start()
        return made

    @property
    def folders(self) -> list[str]:
        return sorted(name for name in os.listdir(self.root / "volumes") if name != ".scratch")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    zygote = Zygote.spawn()
    made = Place(tmp_path, zygote)
    try:
        yield made
    finally:
        made.state.close()
        await zygote.close()


@asynccontextmanager
async def volume_of(place: Place, **options: str) -> AsyncIterator[tuple[Volumes, str]]:
    volumes = await place.volumes()
    await volumes.create("data", options=options)
    yield volumes, volumes.path("data")
    await volumes.remove("data")


def put(folder: str, data: bytes) -> None:
    Path(folder, "file").write_bytes(data)


async def test_made_used_and_removed(place: Place) -> None:
    volumes = await place.volumes()
    made = await volumes.create("data", labels={"a": "b"})
    assert await volumes.create("data") == made
    shown = volumes.show(made)
    assert shown["Mountpoint"] == str(place.root / "volumes/data/_data")
    assert (shown["Labels"], shown["Options"], shown["Scope"]) == ({"a": "b"}, None, "local")
    await volumes.use("data", "c1")
    with pytest.raises(Conflict, match=r"remove data: volume is in use - \[c1\]"):
        await volumes.remove("data")
    await volumes.release("data", "c1")
    put(volumes.path("data"), b"x")
    await volumes.remove("data")
    assert place.folders == []
    with pytest.raises(errors.NotFound, match="get data: no such volume"):
        await volumes.remove("data")
    await volumes.remove("data", force=True)
    assert [seen[1:3] for seen in place.events.seen] == [("create", "data"), ("destroy", "data")]


async def test_a_restart_finds_volumes_and_their_users(place: Place) -> None:
    volumes = await place.volumes()
    await volumes.create("data")
    record = Container(
        id="c1",
        name="c",
        created_ns=1,
        config=ContainerConfig(),
        host_config=HostConfig(),
        image_id="i",
        image_ref="i",
        mounts=[MountPoint(type="volume", target="/data", name="data")],
    )
    await place.state.commit(Put("containers", "c1", record))
    (place.root / "volumes/found/_data").mkdir(parents=True)
    (place.root / "volumes/.removed-0123/_data/deep").mkdir(parents=True)
    again = await place.volumes()
    assert [volume.name for volume in again.listing()] == ["data", "found"]
    assert place.folders == ["data", "found"]
    with pytest.raises(Conflict):
        await again.remove("data")
    (place.root / "volumes/found/_data").rmdir()
    assert [volume.name for volume in (await place.volumes()).listing()] == ["data"]


async def test_a_prune_leaves_what_is_named_or_used(place: Place) -> None:
    volumes = await place.volumes()
    await volumes.create("named")
    free, used = await volumes.create(), await volumes.create(container="c1")
    assert len(free.name) == 64 and ANONYMOUS in (free.labels or {})
    put(volumes.path(free.name), b"x" * 5000)
    assert await volumes.prune({}) == ([free.name], 5000)
    assert await volumes.prune({"all": ["true"]}) == (["named"], 0)
    assert [volume.name for volume in volumes.listing()] == [used.name]
    assert place.events.seen[-1] == ("volume", "prune", "", {"reclaimed": "0"})


async def test_usage_counts_bytes_and_users(place: Place) -> None:
    async with volume_of(place) as (volumes, path):
        put(path, b"x" * 100)
        os.link(f"{path}/file", f"{path}/again")
        await volumes.use("data", "c1")
        (usage,) = await volumes.usage()
        assert (usage.size, usage.users) == (100, 1)
        await volumes.release("data", "c1")


def image(folder: Path) -> Path:
    root = folder / "image"
    (root / "srv/sub").mkdir(parents=True)
    (root / "srv/file").write_text("hello")
    (root / "srv/link").symlink_to("/etc/passwd")
    os.link(root / "srv/file", root / "srv/sub/same")
    os.chown(root / "srv/file", 12, 34)
    os.chmod(root / "srv/file", 0o4711)
    os.setxattr(root / "srv/file", "user.note", b"kept")
    os.chown(root / "srv", 5, 6)
    os.chmod(root / "srv", 0o1777)
    (root / "etc").mkdir()
    (root / "etc/inside").write_text("")
    (root / "evil").symlink_to("/etc")
    (root / "plain").write_text("")
    return root


async def test_copy_up_keeps_owners_links_and_attributes(place: Place) -> None:
    async with volume_of(place) as (volumes, path):
        await volumes.fill("c1", (), {"/srv": "data"}, rootfs=str(image(place.root)))
        data = Path(path)
        status = os.stat(data / "file")
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o4711)
        assert status.st_ino == os.stat(data / "sub/same").st_ino
        assert os.getxattr(data / "file", "user.note") == b"kept"
        assert os.readlink(data / "link") == "/etc/passwd"
        top = os.stat(data)
        assert (top.st_uid, top.st_gid, top.st_mode & 0o7777) == (5, 6, 0o1777)


async def test_copy_up_is_for_empty_volumes_and_stays_in_the_image(place: Place) -> None:
    root = image(place.root)
    async with volume_of(place) as (volumes, path):
        for target in ("/plain", "/missing"):
            await volumes.fill("c1", (), {target: "data"}, rootfs=str(root))
        assert os.listdir(path) == []
        await volumes.fill("c1", (), {"/evil": "data"}, rootfs=str(root))
        assert os.listdir(path) == ["inside"]
        async with volumes.populate("data", str(root), "/srv"):
            assert os.listdir(path) == ["inside"]


async def test_a_volume_that_cannot_be_mounted_says_why(place: Place) -> None:
    async with volume_of(place, type="none", device="/no/such", o="bind") as (volumes, path):
        words = f"error while mounting volume '{path}': failed to mount local volume: mount /no/such:{path}"
        with pytest.raises(ServerError, match=f"{words}, flags: 0x1000: no such file or directory"):
            await volumes.mount("data", "c1")


MOUNTS = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from integration.test_dockerd_volumes import Place, volume_of
from longshore.zygote.client import Zygote

async def main():
    zygote = Zygote.spawn()
    place = Place(Path({folder!r}), zygote)
    async with volume_of(place, type="tmpfs", device="tmpfs", o="size=1m,uid=7") as (volumes, path):
        await volumes.mount("data", "c1")
        await volumes.mount("data", "c1")
        await volumes.mount("data", "c2")
        assert os.path.ismount(path) and os.stat(path).st_uid == 7
        again = await place.volumes()
        await volumes.unmount("data", "c1")
        assert os.path.ismount(path)
        await volumes.unmount("data", "c2")
        assert not os.path.ismount(path)
    place.state.close()
    await zygote.close()

asyncio.run(main())
print("done")
"""


def test_local_mounts_come_and_go_with_their_containers(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    script = MOUNTS.format(tests=tests, folder=str(tmp_path))
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "done\n", done.stderr
