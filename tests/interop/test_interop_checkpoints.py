"""ctr tasks checkpoint, containers checkpoint and restore: our ctr and Debian's, each on both daemons.

criu is a stand-in (`support.criu`), itself unverified: what is saved and found
again is shown, not that criu can do it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from longshore.api.errors import AlreadyExists, InvalidArgument, NotFound
from longshore.api.types.task.task_pb2 import RUNNING
from longshore.client import Client, Null
from longshore.client.checkpoints import CRIU, SPEC
from support import criu, ctrtable, images, require
from support.daemon import COLLECTION_WHEN_ASKED, Longshore
from support.folders import short_folder
from support.realdaemon import RealContainerd
from support.registry import Registry

Daemon: TypeAlias = RealContainerd | Longshore
BOX = "docker.io/library/busybox:latest"
WRITES = ("sh", "-c", "echo written > /note; exec sleep 1000")

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["real", "longshore"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2", "busybox", "docker-registry")
    with short_folder() as folder:
        program = criu.install(folder)
        made: Daemon
        if request.param == "real":
            made = RealContainerd(config=COLLECTION_WHEN_ASKED, programs={"criu": program})
        else:
            path = f"{folder}:{os.environ['PATH']}"
            made = Longshore(config=COLLECTION_WHEN_ASKED, environment={"PATH": path})
        with made as daemon, short_folder() as archives:
            daemon.go_ctr("images", "import", images.busybox_archive(archives))
            yield daemon


@pytest.fixture(params=[ctrtable.OURS, ctrtable.DEBIANS])
def ctr(request: pytest.FixtureRequest, daemon: Daemon) -> Any:
    if request.param == ctrtable.DEBIANS:
        return daemon.go_ctr
    call = ctrtable.our_call(str(daemon.address), daemon.namespace)

    def checked(*words: str, check: bool = True) -> Any:
        done = call(*words)
        assert done.returncode == 0 or not check, done.stderr
        return done

    return checked


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(str(daemon.address), daemon.namespace) as client:
        yield client


def running(ctr: Any, client: Client, name: str) -> None:
    ctr("run", "-d", BOX, name, *WRITES)
    written = client.tasks.get(name).exec(["sh", "-c", "until grep -q written /note; do :; done"])
    with written as process:
        process.start()
        assert process.wait().code == 0


def entries(client: Client, name: str) -> list[str]:
    (image,) = client.images.list([f"name=={name}"])
    index = json.loads(client.content.read(image.record.target.digest))
    return [entry["mediaType"] for entry in index["manifests"]]


def test_a_container_with_all_it_has(daemon: Daemon, ctr: Any, client: Client, name: str) -> None:
    by_criu = isinstance(daemon, Longshore)  # runc wants more of criu than the stand-in can
    running(ctr, client, name)
    flags = ("--rw", "--image", *(("--task",) if by_criu else ()))
    client.containers.get(name).checkpoint(f"saved/{name}:0", rw=True, image=True)
    ctr("containers", "checkpoint", *flags, name, f"saved/{name}:1")
    first, second = (entries(client, f"saved/{name}:{number}") for number in (0, 1))
    assert SPEC in first and len(first) == 4
    if by_criu:
        assert {CRIU, SPEC} < set(second) and len(second) == 6
    assert client.tasks.get(name).state().status == RUNNING  # it goes on
    ctr("tasks", "rm", "-f", name)
    ctr("containers", "rm", name)
    client.leases.delete(client.leases.create().id, sync=True)

    # Our SDK restores what either saved, with what was written, and runs it anew.
    for number in (0, 1) if by_criu else (0,):
        restored = client.containers.restore(f"{name}-r", f"saved/{name}:{number}", rw=True)
        assert restored.spec["process"]["args"] == list(WRITES)
        assert restored.record.runtime.name == "io.containerd.runc.v2" and restored.record.image == BOX
        with restored.create_task(io=Null()) as task:
            task.start()
            with task.exec(["grep", "-q", "written", "/note"]) as process:
                process.start()
                assert process.wait().code == 0
        restored.delete()
        assert f"saved/{name}:{number}" in ctr("images", "ls", "-q").stdout
    ctr("images", "rm", f"saved/{name}:0", f"saved/{name}:1")


def test_a_task(daemon: Daemon, ctr: Any, client: Client, name: str, tmp_path: Path) -> None:
    if isinstance(daemon, RealContainerd):
        pytest.skip("runc wants more of criu than the stand-in can")
    running(ctr, client, name)
    saved = ctr("tasks", "checkpoint", name).stdout.strip()
    assert saved.startswith(f"containerd.io/checkpoint/{name}:")
    assert {CRIU, SPEC} < set(entries(client, saved))
    (tmp_path / "images").mkdir()
    ctr("tasks", "checkpoint", "--exit", "--image-path", str(tmp_path / "images"), name)
    assert (tmp_path / "images/inventory.img").read_bytes() == b"image"
    assert client.tasks.get(name).wait().code == 137
    ctr("tasks", "rm", name, check=False)  # Debian's fails with the exit status
    ctr("containers", "rm", name)
    ctr("images", "rm", saved)


def test_restored_and_run(ctr: Any, client: Client, name: str) -> None:
    """What has been saved is run to its end."""
    spec = ["sh", "-c", "echo again; exit 5"]
    client.containers.create(name, image=BOX, args=spec).checkpoint(f"saved/{name}:1")
    ctr("containers", "rm", name)
    done = ctr("containers", "restore", f"{name}-r", f"saved/{name}:1", check=False)
    if "longshore" in done.args[0]:  # Debian's ends with 0, and may leave before it has copied the output
        assert (done.returncode, done.stdout) == (5, "again\n")
    else:
        assert done.returncode == 0
    ctr("containers", "rm", f"{name}-r")
    ctr("images", "rm", f"saved/{name}:1")


def test_live(daemon: Daemon, client: Client, name: str) -> None:
    """The stand-in for criu restores a program that prints one line and sleeps."""
    if isinstance(daemon, RealContainerd):
        pytest.skip("runc wants more of criu than the stand-in can")
    with client.run(BOX, WRITES, io=Null()) as task:
        client.containers.get(task.container).checkpoint(f"saved/{name}:1", task=True)
        restored = client.containers.restore(name, f"saved/{name}:1")
        with restored.create_task(checkpoint=f"saved/{name}:1") as again:
            again.start()
            assert again.state().status == RUNNING
        restored.delete()
    client.images.delete(f"saved/{name}:1")


def test_it_travels(daemon: Daemon, client: Client, name: str, tmp_path: Path) -> None:
    """Through a registry and through an archive, to a namespace that doesn't know the image."""
    with client.run(BOX, WRITES, io=Null()) as task:
        container = client.containers.get(task.container)
        container.checkpoint(f"saved/{name}:1", rw=True, image=True)
    with Registry() as registry, Client(str(daemon.address), f"{daemon.namespace}-b") as other:
        client.images.push(registry.name("saved/web:1"), source=f"saved/{name}:1")
        pulled = other.images.pull(registry.name("saved/web:1"), all_platforms=True)
        with other.leased() as leased:
            restored = leased.containers.restore("pulled", pulled.name, rw=True)
            assert restored.record.image == BOX
            restored.delete()
        for image in other.images.list():
            other.images.delete(image.name, sync=True)
        with open(tmp_path / "a.tar", "w+b") as file:
            client.images.export_archive([f"saved/{name}:1"], file)
            file.seek(0)
            (imported,) = other.images.import_archive(file)
        other.containers.restore("imported", imported.name, rw=True).delete()
        for image in other.images.list():
            other.images.delete(image.name, sync=True)
        assert other.content.list() == [] and other.snapshots().list() == []
    client.images.delete(f"saved/{name}:1")


def test_refused(client: Client, name: str) -> None:
    """Each leaves nothing."""
    before = [snapshot.name for snapshot in client.snapshots().list()]
    with client.run(BOX, WRITES, io=Null()) as task:
        container = client.containers.get(task.container)
        container.checkpoint(f"saved/{name}:1")
        with pytest.raises(AlreadyExists):
            container.checkpoint(f"saved/{name}:1")
        with pytest.raises(NotFound, match="what the container wrote in checkpoint"):
            client.containers.restore(name, f"saved/{name}:1", rw=True)
        with pytest.raises(AlreadyExists):
            client.containers.restore(task.container, f"saved/{name}:1")
        restored = client.containers.restore(name, f"saved/{name}:1")
        with pytest.raises(NotFound, match="a task in checkpoint"):
            restored.create_task(checkpoint=f"saved/{name}:1")
        restored.delete()
        with pytest.raises(InvalidArgument, match="is no checkpoint"):
            client.containers.restore(name, BOX)
        assert task.state().status == RUNNING
    client.images.delete(f"saved/{name}:1")
    assert [snapshot.name for snapshot in client.snapshots().list()] == before
    assert client.leases.list() == []
