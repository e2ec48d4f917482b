"""Apply and Diff through the daemon: every media type and mount, bad layers, full disks, and a loop that stays free."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import random
import signal
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import zstandard
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.api import errors
from longshore.api.services.diff.v1.diff_pb2 import ApplyRequest, DiffRequest
from longshore.api.services.diff.v1.diff_pb2_grpc import DiffStub
from longshore.api.services.version.v1.version_pb2_grpc import VersionStub
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.mount_pb2 import Mount as MountMessage
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import Mount
from longshore.linux import mounts as kernel
from support import leaks
from support.daemon import NO_COLLECTION, Longshore
from support.layers import apply_to, digest, directory, layer, member, symlink, tree
from support.remote import RemoteContent, RemoteSnapshotter, ask, channel

OCI = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar"

LAYER = layer(
    directory("tmp", mode=0o1777),
    directory("etc"),
    member("etc/passwd", data=b"root" * 100, uid=3, gid=4, mode=0o4755),
    symlink("bin", "usr/bin"),
    member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
)
CHANGE = layer(member("etc/.wh.passwd"), member("tmp/x", data=b"x"), member("etc/new", data=b"new"))


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore(config=NO_COLLECTION) as running:
        yield running


class Client:
    """One test's namespace on the daemon."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        self.scope = Scope(f"d{uuid.uuid4().hex[:10]}")
        self.content = RemoteContent(opened)
        self.overlay, self.native = (
            RemoteSnapshotter(opened, "overlayfs"),
            RemoteSnapshotter(opened, "native"),
        )
        self.stub, self.version = DiffStub(opened), VersionStub(opened)

    async def put(self, data: bytes) -> Descriptor:
        writer = await self.content.writer(self.scope, f"ref{uuid.uuid4()}")
        try:
            for start in range(0, len(data), 1 << 20):
                await writer.write(data[start : start + (1 << 20)])
            await writer.commit(len(data), "", {})
        except errors.AlreadyExists:
            pass
        await writer.close()
        return Descriptor(media_type=OCI, digest=digest(data), size=len(data))

    async def apply(
        self, data: bytes, mounts: list[Mount], media_type: str = OCI, sync: bool = False
    ) -> Descriptor:
        descriptor = await self.put(data)
        descriptor.media_type = media_type
        request = ApplyRequest(diff=descriptor, mounts=messages(mounts), sync_fs=sync)
        applied: Descriptor = (await ask(self.stub.Apply, request, self.scope)).applied
        return applied

    async def diff(self, left: list[Mount], right: list[Mount], **fields: object) -> Descriptor:
        request = DiffRequest(left=messages(left), right=messages(right), **fields)  # type: ignore[arg-type]
        made: Descriptor = (await ask(self.stub.Diff, request, self.scope)).diff
        return made

    async def read(self, name: str) -> bytes:
        blob = await self.content.open(self.scope, name)
        try:
            return os.pread(blob.fd, blob.size, 0)
        finally:
            os.close(blob.fd)

    async def base(self, snapshotter: RemoteSnapshotter) -> str:
        """A committed snapshot of LAYER."""
        name = f"base{uuid.uuid4()}"
        mounts = await snapshotter.prepare(self.scope, f"extract {name}", "", {})
        await self.apply(LAYER, list(mounts))
        await snapshotter.commit(self.scope, name, f"extract {name}", {})
        return name


@pytest.fixture
async def client(daemon: Longshore) -> AsyncIterator[Client]:
    async with channel(daemon.address) as opened:
        yield Client(opened)


def messages(mounts: list[Mount]) -> list[MountMessage]:
    return [MountMessage(type=m.type, source=m.source, options=m.options, target=m.target) for m in mounts]


def seen(mounts: list[Mount], place: Path) -> dict[str, tuple[object, ...]]:
    place.mkdir(exist_ok=True)
    with kernel.mounted([kernel.Mount(m.type, m.source, m.options) for m in mounts], str(place)):
        return tree(place, times=False)


def expected(tmp: Path, *layers: bytes) -> dict[str, tuple[object, ...]]:
    target = tmp / f"expected{uuid.uuid4()}"
    target.mkdir()
    for data in layers:
        apply_to(target, data)
    return tree(target, times=False)


PACKED = {
    OCI: LAYER,
    OCI + "+gzip": gzip.compress(LAYER),
    OCI + "+zstd": zstandard.ZstdCompressor().compress(LAYER),
    DOCKER: gzip.compress(LAYER),
    DOCKER + ".gzip": gzip.compress(LAYER),
    DOCKER + ".zstd": zstandard.ZstdCompressor().compress(LAYER),
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": gzip.compress(LAYER),
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": gzip.compress(LAYER),
}


@pytest.mark.parametrize("media_type", PACKED)
async def test_media_types(client: Client, tmp_path: Path, media_type: str) -> None:
    mounts = list(await client.overlay.prepare(client.scope, "key", "", {}))
    applied = await client.apply(PACKED[media_type], mounts, media_type)
    assert (applied.media_type, applied.digest, applied.size) == (OCI, digest(LAYER), len(LAYER))
    assert seen(mounts, tmp_path / "place") == expected(tmp_path, LAYER)


@pytest.mark.parametrize("name", ["overlay", "native"])
async def test_on_a_parent(client: Client, tmp_path: Path, name: str) -> None:
    snapshotter: RemoteSnapshotter = getattr(client, name)
    mounts = list(await snapshotter.prepare(client.scope, "key", await client.base(snapshotter), {}))
    await client.apply(CHANGE, mounts, sync=True)
    assert seen(mounts, tmp_path / "place") == expected(tmp_path, LAYER, CHANGE)
    assert seen(mounts, tmp_path / "place")["tmp"][0] == oct(0o41777)


async def test_on_any_other_mount(client: Client, daemon: Longshore, tmp_path: Path) -> None:
    """Mounted in a namespace of the worker's own: nobody sees it, and it leaves nothing."""
    lower, upper, work = tmp_path / "lower", tmp_path / "upper", tmp_path / "work"
    for path in (lower, upper, work):
        path.mkdir()
    apply_to(lower, LAYER)
    mounts = [
        Mount("overlay", "overlay", (f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}")),
        Mount("bind", str(tmp_path / "other"), ("rbind",), "/other"),
    ]
    (tmp_path / "other").mkdir()
    await client.apply(layer(member("other/x", data=b"x"), member("etc/.wh.passwd")), mounts)
    assert (tmp_path / "other" / "x").read_bytes() == b"x"
    assert os.listdir(upper / "etc") == ["passwd"]
    assert not any("mount" in line for line in leaks.Watch([daemon.state]).left())
    with pytest.raises(errors.Error, match="ead-only file system"):
        await client.apply(LAYER, [Mount("bind", str(tmp_path / "other"), ("rbind", "ro"))])


async def test_on_an_upper_directory_alone(client: Client, tmp_path: Path) -> None:
    """How clients that unpack layers at the same time ask for it: there is no lower directory to mount."""
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    mounts = [Mount("overlay", "overlay", ("index=off", f"workdir={work}", f"upperdir={upper}"))]
    await client.apply(LAYER, mounts)
    assert tree(upper, times=False) == expected(tmp_path, LAYER)


GZIP = OCI + "+gzip"


@pytest.mark.parametrize(
    ("data", "media_type", "words"),
    [
        (gzip.compress(LAYER)[:-20], GZIP, "unexpected EOF"),
        (gzip.compress(LAYER)[:90], GZIP, "unexpected EOF"),
        (gzip.compress(LAYER[:700]), GZIP, "unexpected EOF"),
        (gzip.compress(LAYER)[:50] + b"\xff" * 50 + gzip.compress(LAYER)[100:], GZIP, "invalid data"),
        (LAYER[:1700], OCI, "unexpected EOF"),
        (b"garbage" * 200, OCI, "checksum"),
        (layer(member("d", tarfile.CHRTYPE)), OCI, "device 0:0"),
        (layer(member("f", xattrs={"trusted.overlay.redirect": b"/"})), OCI, "not allowed in a layer"),
        (layer(member(".wh..")), OCI, "invalid whiteout name"),
        (layer(member("a"), member("a/b")), OCI, "not a directory"),
        (LAYER, "application/foo", "no processor for media-type"),
        (LAYER, "", "no processor for media-type"),
        (LAYER, OCI + "+encrypted", "no processor for media-type"),
    ],
)
async def test_bad_layers(client: Client, data: bytes, media_type: str, words: str) -> None:
    mounts = list(await client.overlay.prepare(client.scope, "key", "", {}))
    with pytest.raises(errors.Error, match=words) as error:
        await client.apply(data, mounts, media_type)
    assert error.value.code == 2
    await client.overlay.remove(client.scope, "key")


async def test_what_is_missing(client: Client) -> None:
    with pytest.raises(errors.NotFound, match="failed to get reader from content store: content digest"):
        request = ApplyRequest(
            diff=Descriptor(media_type=OCI, digest="sha256:" + "0" * 64),
            mounts=[MountMessage(type="bind", source="/nowhere", options=["rbind"])],
        )
        await ask(client.stub.Apply, request, client.scope)
    with pytest.raises(errors.Error, match="no such file or directory"):
        await client.apply(LAYER, [Mount("bind", "/nowhere", ("rbind",))])
    with pytest.raises(errors.InvalidArgument, match="no mounts"):
        await client.apply(LAYER, [])


async def test_a_full_disk(client: Client, tmp_path: Path) -> None:
    big = layer(member("big", data=random.Random(1).randbytes(3 << 20)))
    (tmp_path / "small").mkdir()
    with kernel.mounted([kernel.Mount("tmpfs", "tmpfs", ("size=1m",))], str(tmp_path / "small")):
        mounts = [Mount("bind", str(tmp_path / "small"), ("rbind",))]
        with pytest.raises(errors.ResourceExhausted, match="no space left on device: 'big'"):
            await client.apply(big, mounts)
        await client.apply(layer(member("small")), [Mount("bind", str(tmp_path / "small"), ("rbind",))])


def wide(files: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(files):
            info = tarfile.TarInfo(f"d{number % 100}/f{number}")
            info.size = 1000
            archive.addfile(info, io.BytesIO(b"x" * 1000))
    return buffer.getvalue()


async def test_the_loop_stays_free(client: Client, tmp_path: Path) -> None:
    data = wide(1_500)
    descriptor = await client.put(data)
    mounts = list(await client.native.prepare(client.scope, "key", "", {}))
    request = ApplyRequest(diff=descriptor, mounts=messages(mounts))
    work = asyncio.ensure_future(ask(client.stub.Apply, request, client.scope))
    calls = 0
    while not work.done():
        await client.version.Version(Empty())
        calls += 1
    assert (await work).applied.digest == digest(data)
    assert calls > 20  # some hundreds; one or two, if it were not free
    # The copy for a child, its usage and its removal, too.
    await client.native.commit(client.scope, "base", "key", {})
    await client.native.prepare(client.scope, "child", "base", {})
    assert (await client.native.usage(client.scope, "child")).inodes == 1_601
    await client.native.remove(client.scope, "child")
    await client.native.remove(client.scope, "base")
    await client.native.cleanup()


def workers(daemon: Longshore) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if (entry / "comm").read_text().startswith("longshore-worke"):
                    grandparent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
                    if grandparent == daemon.pid:
                        found.append(int(entry.name))
            except (OSError, ValueError):
                continue
    return found


async def test_a_killed_worker(client: Client, daemon: Longshore) -> None:
    descriptor = await client.put(wide(3_000))
    mounts = list(await client.overlay.prepare(client.scope, "key", "", {}))
    request = ApplyRequest(diff=descriptor, mounts=messages(mounts))
    work = asyncio.ensure_future(ask(client.stub.Apply, request, client.scope))
    while not (found := workers(daemon)):
        assert not work.done()
        await asyncio.sleep(0)
    os.kill(found[0], signal.SIGKILL)
    with pytest.raises(errors.Unavailable, match="failed to apply layer"):
        await work
    await client.overlay.remove(client.scope, "key")


# -- Diff ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", [OCI, GZIP, OCI + "+zstd", ""])
async def test_diff(client: Client, tmp_path: Path, media_type: str) -> None:
    base = await client.base(client.overlay)
    right = list(await client.overlay.prepare(client.scope, "right", base, {}))
    left = list(await client.overlay.view(client.scope, "left", base, {}))
    await client.apply(CHANGE, right)
    made = await client.diff(left, right, media_type=media_type, ref="my-ref", labels={"a": "b"})
    assert made.media_type == media_type or (media_type, made.media_type) == ("", GZIP)
    data = await client.read(made.digest)
    assert (made.digest, made.size) == (digest(data), len(data))
    info = await client.content.info(client.scope, made.digest)
    assert info.labels["a"] == "b"
    target = list(await client.overlay.prepare(client.scope, "again", base, {}))
    applied = await client.apply(data, target, made.media_type)
    assert seen(target, tmp_path / "place") == expected(tmp_path, LAYER, CHANGE)
    if media_type != OCI:
        assert info.labels["containerd.io/uncompressed"] == applied.digest
    assert list(await client.content.statuses(client.scope, [])) == []


async def test_diff_by_walking_both(client: Client, tmp_path: Path) -> None:
    base = await client.base(client.native)
    right = list(await client.native.prepare(client.scope, "right", base, {}))
    left = list(await client.native.view(client.scope, "left", base, {}))
    await client.apply(CHANGE, right)
    made = await client.diff(left, right, media_type=OCI)
    target = list(await client.native.prepare(client.scope, "again", base, {}))
    await client.apply(await client.read(made.digest), target)
    assert seen(target, tmp_path / "place") == expected(tmp_path, LAYER, CHANGE)


async def test_diff_of_nothing_and_twice(client: Client) -> None:
    mounts = list(await client.overlay.prepare(client.scope, "key", "", {}))
    first = await client.diff([], mounts, media_type=OCI)
    assert await client.read(first.digest) == bytes(1024)
    assert await client.diff([], mounts, media_type=OCI) == first
    assert await client.diff([], [], media_type=OCI) == first


async def test_diff_is_reproducible(client: Client) -> None:
    mounts = list(await client.overlay.prepare(client.scope, "key", "", {}))
    await client.apply(LAYER, mounts)
    epoch = Timestamp(seconds=1)
    os.utime(Path(mounts[0].source) / "etc", (5, 5))
    first = await client.diff([], mounts, source_date_epoch=epoch)
    os.utime(Path(mounts[0].source) / "etc", (9, 9))
    assert await client.diff([], mounts, source_date_epoch=epoch) == first


async def test_diffs_that_fail(client: Client) -> None:
    mounts = list(await client.overlay.prepare(client.scope, "key", "", {}))
    with pytest.raises(errors.Unimplemented, match="unsupported diff media type: foo"):
        await client.diff([], mounts, media_type="foo")
    with pytest.raises(errors.Error, match=r"failed to create diff: .*no such file or directory"):
        await client.diff([Mount("bind", "/nowhere", ("rbind",))], mounts, ref="r")
    with pytest.raises(errors.NotFound):
        await client.content.status(client.scope, "r")


async def test_clients_that_go_away(client: Client, tmp_path: Path) -> None:
    """A cancelled call goes on to its end: the snapshot is whole, the next call is served."""
    chance = random.Random(5)
    descriptor = await client.put(LAYER)
    for number in range(25):
        mounts = list(await client.overlay.prepare(client.scope, f"key{number}", "", {}))
        call = client.stub.Apply(
            ApplyRequest(diff=descriptor, mounts=messages(mounts)),
            metadata=[("containerd-namespace", client.scope.namespace)],
        )
        await asyncio.sleep(chance.random() * 0.01)
        call.cancel()
        await client.overlay.commit(client.scope, f"done{number}", f"key{number}", {})
    infos = [info async for block in client.overlay.walk(client.scope, []) for info in block]
    assert len(infos) == 25
