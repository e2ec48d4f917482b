"""The SDK on Debian's containerd and on ours: the same calls, the same answers."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from longshore.api.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
)
from longshore.api.types.task import task_pb2
from longshore.client import PIPE, AsyncClient, Client, LogURI, Null, Pipes
from longshore.client.oci import host_platform
from longshore.client.spec import with_env, with_hostname
from support import images
from support.daemon import Longshore
from support.images import BUSYBOX
from support.process import eventually
from support.realdaemon import RealContainerd

Daemon: TypeAlias = RealContainerd | Longshore


@pytest.fixture
def client(containerd: Daemon) -> Iterator[Client]:
    with Client(str(containerd.address), containerd.namespace) as client:
        yield client
        assert client.tasks.list() == []


@pytest.fixture
async def core(containerd: Daemon) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(str(containerd.address), containerd.namespace) as client:
        yield client


def test_streams_and_status(client: Client) -> None:
    with client.run(BUSYBOX, ["sh", "-c", "tr a-z A-Z; echo err >&2; exit 7"], io=PIPE) as process:
        process.stdin.write(b"hello\n")
        process.stdin.close()
        assert process.stdout.read() == b"HELLO\n"
        assert process.stderr.read() == b"err\n"
        assert process.wait().code == 7
        assert process.wait().exited_at_ns > 0


def test_much_in_and_out(client: Client) -> None:
    data = bytes(range(256)) * 4096 * 3
    with client.run(BUSYBOX, ["cat"], io=PIPE) as process:
        digest = hashlib.sha256()
        portal = client._portal
        writing = asyncio.run_coroutine_threadsafe(_feed(process, data), portal.loop)
        for block in process.stdout:
            digest.update(block)
        writing.result()
        assert digest.digest() == hashlib.sha256(data).digest()
        assert process.wait().code == 0


async def _feed(process: object, data: bytes) -> None:
    stdin = process._inner.stdin  # type: ignore[attr-defined]
    await stdin.write(data)
    await stdin.close()


def test_unread_output_does_not_hold_up_the_end(client: Client) -> None:
    """A shim would wait ten seconds for a reader. A machine that is as slow as that isn't so three times."""

    def ends_at_once() -> bool:
        with client.run(BUSYBOX, ["yes"], io=Pipes()) as process:
            assert process.stdout.read_block().startswith(b"y\n")
            started = time.monotonic()
        return time.monotonic() - started < 8

    assert any(ends_at_once() for _ in range(3))


def test_a_killed_process_is_137(client: Client) -> None:
    with client.run(BUSYBOX, ["sleep", "1000"]) as process:
        process.kill(9)
        assert process.wait().code == 137
        with pytest.raises(NotFound):
            process.kill(9)


def test_a_missing_program_leaves_nothing(client: Client) -> None:
    with pytest.raises(Exception, match="no-such-program"), client.run(BUSYBOX, ["no-such-program"]):
        pass
    assert client.containers.list() == []
    assert [s.name for s in client.snapshots().list() if s.kind == 2] == []


def test_exec(client: Client) -> None:
    with client.run(BUSYBOX, ["sleep", "1000"], with_env({"A": "b"}), with_hostname("h")) as task:
        with task.exec(["sh", "-c", "echo $A; hostname; exit 3"], io=Pipes(), exec_id="e1") as process:
            process.start()
            assert process.stdout.read() == b"b\nh\n"
            assert process.wait().code == 3
            assert process.state().status == task_pb2.STOPPED
            with pytest.raises(AlreadyExists):
                task.exec(["true"], exec_id="e1")
        with pytest.raises(NotFound):
            client.tasks.exec_process(task.container, "e1")
        assert len(task.pids()) == 1


def test_a_terminal(client: Client) -> None:
    terminal = Pipes(stdin=True, terminal=True)
    with (
        client.run(BUSYBOX, ["sleep", "1000"]) as task,
        task.exec(["sh", "-c", "read x; stty size; tty"], io=terminal) as process,
    ):
        process.start()
        process.resize(93, 41)
        process.stdin.write(b"go\n")
        assert process.stdout.read().split() == [b"go", b"41", b"93", b"/dev/pts/0"]
        assert process.wait().code == 0


def test_user_names_come_from_the_image(client: Client) -> None:
    with (
        client.containers.temporary(image=BUSYBOX, args=["id"], user="nobody") as container,
        container.create_task(io=Pipes()) as task,
    ):
        task.start()
        assert task.stdout.read() == b"uid=65534(nobody) gid=65534(nogroup) groups=4(adm)\n"
        task.wait()
    with pytest.raises(NotFound, match="mallory"):
        client.containers.create("c-mallory", image=BUSYBOX, user="mallory")
    assert client.containers.list() == []


def test_logs(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log"
    lines = ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]
    with client.run(BUSYBOX, lines, io=LogURI(f"file://{log}")) as process:
        # While it runs: at its end Go's shim closes such a file without waiting for the second stream.
        eventually(lambda: log.exists() and sorted(log.read_text().split()) == ["err", "out"])
        process.kill(9)
        process.wait()
        process.delete()


def test_states(client: Client) -> None:
    with client.containers.temporary(image=BUSYBOX, args=["sleep", "1000"]) as container:
        task = container.create_task(io=Null())
        assert task.state().status == task_pb2.CREATED
        with pytest.raises(AlreadyExists):
            container.create_task()
        task.start()
        assert task.state().status == task_pb2.RUNNING
        with pytest.raises(FailedPrecondition):
            container.delete()
        with pytest.raises(FailedPrecondition):
            task.delete()
        task.pause()
        assert task.state().status == task_pb2.PAUSED
        task.resume()
        task.update({"memory": {"limit": 64 << 20}})
        assert "67108864" in str(task.metrics())
        task.kill(9)
        task.wait()
        assert task.state().status == task_pb2.STOPPED
        assert task.delete().code == 137
        with pytest.raises(NotFound):
            container.task()


def test_events_of_a_life(client: Client) -> None:
    with client.events.subscribe("topic~=|^/tasks/|") as events:
        with client.run(BUSYBOX, ["sh", "-c", "exit 5"]) as process:
            process.wait()
        seen = []
        for event in events:
            if getattr(event.message, "container_id", "") == process.container:
                seen.append(event)
                if event.topic == "/tasks/delete":
                    break
    assert [event.topic for event in seen] == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ]
    message = seen[2].message
    assert getattr(message, "exit_status", None) == 5


def test_containers(client: Client) -> None:
    first = client.containers.create("c-a", image=BUSYBOX, args=["true"], labels={"team": "x"})
    client.containers.create("c-b", rootfs="/", args=["true"])
    try:
        assert [c.id for c in client.containers.list()] == ["c-a", "c-b"]
        assert [c.id for c in client.containers.list(["labels.team==x"])] == ["c-a"]
        first.label({"team": "y", "more": "1"})
        assert client.containers.get("c-a").labels == {"team": "y", "more": "1"}
        first.label({"more": ""})
        assert "more" not in client.containers.get("c-a").labels
        with pytest.raises(AlreadyExists):
            client.containers.create("c-a", image=BUSYBOX)
        assert client.snapshots().stat("c-a").kind == 2
        assert first.spec["process"]["args"] == ["true"]
    finally:
        for container in client.containers.list():
            container.delete()
    with pytest.raises(NotFound):
        client.snapshots().stat("c-a")
    with pytest.raises(InvalidArgument):
        client.containers.create("not an id", rootfs="/", args=["true"])


def test_content(client: Client) -> None:
    data = b"content" * 1000
    digest = client.content.write("ref-1", data, labels={"containerd.io/gc.root": "x"})
    assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert client.content.read(digest) == data
    assert b"".join(client.content.chunks(digest, offset=5, size=9)) == data[5:14]
    assert client.content.write("ref-2", data) == digest
    assert client.content.info(digest).size == len(data)
    assert client.content.label(digest, {"a": "b"}).labels["a"] == "b"
    assert digest in [info.digest for info in client.content.list(["labels.a==b"])]
    with pytest.raises(OutOfRange):
        list(client.content.chunks(digest, offset=len(data) + 1))
    client.content.delete(digest)
    with pytest.raises(NotFound):
        client.content.info(digest)


def test_an_ingest_is_resumed(client: Client) -> None:
    data = b"0123456789" * 1000
    with client.leased() as leased:
        with leased.content.writer("resume", size=len(data)) as writer:
            writer.write(data[:4000])
        status = next(s for s in client.content.statuses() if s.ref == "resume")
        assert (status.offset, status.total) == (4000, len(data))
        with leased.content.writer("resume", size=len(data)) as writer:
            assert writer.offset == 4000
            writer.write(data[4000:])
            with pytest.raises(FailedPrecondition):
                writer.commit(size=len(data), expected=f"sha256:{'0' * 64}")
        with leased.content.writer("resume", size=len(data)) as writer:
            if writer.offset < len(data):
                writer.write(data[writer.offset :])
            assert writer.commit(size=len(data)) == f"sha256:{hashlib.sha256(data).hexdigest()}"


async def test_an_ingest_in_use_is_waited_for(core: AsyncClient) -> None:
    """By those who write a whole blob: two imports of one image, or the next after one that was killed."""
    data = b"in use"
    async with core.leased() as leased:
        async with leased.content.writer("held", size=len(data)):
            waiting = asyncio.create_task(leased.content.write("held", data))
            with pytest.raises(Unavailable, match="locked"):
                async with leased.content.writer("held", size=len(data)):
                    pass
            assert not waiting.done()
        assert await waiting == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_lease_holds_what_is_made_with_it(client: Client) -> None:
    with client.leases.hold(id="mine", expires=3600) as lease:
        digest = client.with_lease(lease.id).content.write("leased", b"leased")
        client.leases.add_resource("mine", "snapshots/overlayfs", "nothing-yet")
        kinds = {(r.type, r.id) for r in client.leases.resources("mine")}
        assert kinds == {("content", digest), ("snapshots/overlayfs", "nothing-yet")}
        assert "mine" in [found.id for found in client.leases.list()]
    assert "mine" not in [found.id for found in client.leases.list()]
    with pytest.raises(NotFound):
        client.with_lease("nobody's").content.write("x", b"y")


def test_snapshots(client: Client) -> None:
    snapshots = client.snapshots()
    keep = {"containerd.io/gc.root": "x"}
    assert snapshots.prepare("s-a", labels=keep)[0].type == "bind"
    snapshots.commit("s-base", "s-a", labels=keep)
    mounts = snapshots.prepare("s-b", "s-base", labels={**keep, "l": "1"})
    assert snapshots.mounts("s-b") == mounts
    assert snapshots.stat("s-b").parent == "s-base"
    assert [info.name for info in snapshots.list(["labels.l==1"])] == ["s-b"]
    assert snapshots.usage("s-b").inodes >= 1
    with pytest.raises(FailedPrecondition):
        snapshots.remove("s-base")
    snapshots.remove("s-b")
    snapshots.remove("s-base")
    with pytest.raises(NotFound):
        snapshots.stat("s-base")


def test_images(client: Client, tmp_path: Path) -> None:
    image = client.images.get(BUSYBOX)
    assert image.size() > 500_000
    assert image.platforms() == [f"linux/{image.config()['architecture']}"]
    chain = image.unpack("overlayfs")
    assert chain == image.chain_id() == image.unpack("overlayfs")
    assert image.is_unpacked("overlayfs") and not image.is_unpacked("native")
    client.images.tag(BUSYBOX, "docker.io/library/other:1")
    with pytest.raises(AlreadyExists):
        client.images.tag(BUSYBOX, "docker.io/library/other:1")
    client.images.label("docker.io/library/other:1", {"a": "b"})
    path = tmp_path / "out.tar"
    with open(path, "wb") as archive:
        client.images.export_archive(["docker.io/library/other:1"], archive)
    client.images.delete("docker.io/library/other:1", sync=True)
    with open(path, "rb") as archive:
        again = client.images.import_archive(archive)
    assert [(i.name, i.record.target.digest) for i in again] == [
        ("docker.io/library/other:1", image.record.target.digest)
    ]
    again[0].delete(sync=True)


def docker_archive(compressed: bool) -> io.BytesIO:
    """What ``docker save`` writes: a config, a layer, and manifest.json."""
    layer = images.busybox_layer()
    config = {
        "architecture": host_platform().architecture,
        "os": "linux",
        "config": {"Cmd": ["echo", "from docker"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "c.json", "RepoTags": ["saved:1"], "Layers": ["abc/layer.tar"]}]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz" if compressed else "w") as tar:
        for name, data in (
            ("abc/layer.tar", layer),
            ("c.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    output.seek(0)
    return output


@pytest.mark.parametrize("compressed", [False, True])
def test_docker_archives(client: Client, compressed: bool) -> None:
    (image,) = client.images.import_archive(docker_archive(compressed))
    try:
        assert image.name == "docker.io/library/saved:1"
        with client.run(image.name, io=Pipes()) as process:
            assert process.stdout.read() == b"from docker\n"
    finally:
        image.delete(sync=True)


@pytest.mark.parametrize("data", [b"", b"nonsense" * 100, gzip.compress(b"x" * 2000)])
def test_no_archive(client: Client, data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="archive"):
        client.images.import_archive(io.BytesIO(data))


def test_namespaces(client: Client) -> None:
    name = f"{client.namespace}-more"
    client.namespaces.create(name, {"a": "1"})
    with pytest.raises(AlreadyExists):
        client.namespaces.create(name)
    assert dict(client.namespaces.label(name, {"b": "2"}).labels) == {"a": "1", "b": "2"}
    other = client.in_namespace(name)
    other.content.write("x", b"x", labels={"containerd.io/gc.root": "x"})
    with pytest.raises(FailedPrecondition):
        client.namespaces.delete(name)
    other.content.delete(other.content.list()[0].digest)
    client.namespaces.delete(name)
    assert name not in [namespace.name for namespace in client.namespaces.list()]


def test_introspection(client: Client) -> None:
    assert client.version().version
    assert len(client.introspection.server().uuid) == 36
    plugins = {(p.type, p.id) for p in client.introspection.plugins()}
    assert ("io.containerd.snapshotter.v1", "overlayfs") in plugins


async def test_many_at_once(core: AsyncClient) -> None:
    async def one(number: int) -> int:
        async with core.run(BUSYBOX, ["sh", "-c", f"echo {number}; exit {number}"], io=Pipes()) as process:
            assert await process.stdout.read() == f"{number}\n".encode()
            return (await process.wait()).code

    assert await asyncio.gather(*(one(number) for number in range(8))) == list(range(8))
    assert await core.containers.list() == []


async def test_a_cancelled_run_cleans_up(core: AsyncClient) -> None:
    started = asyncio.Event()

    async def run() -> None:
        async with core.run(BUSYBOX, ["sleep", "1000"], io=Pipes()) as process:
            started.set()
            await process.wait()

    running = asyncio.ensure_future(run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await core.tasks.list() == []
    assert await core.containers.list() == []
