"""Import, export and tag by Transfer, on our daemon, over the socket; and streams by themselves."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import zstandard

from longshore.api import errors
from longshore.api.services.images.v1.images_pb2 import GetImageRequest, Image, ListImagesRequest
from longshore.api.services.images.v1.images_pb2_grpc import ImagesStub
from longshore.api.services.leases.v1.leases_pb2 import ListRequest
from longshore.api.services.leases.v1.leases_pb2_grpc import LeasesStub
from longshore.api.services.streaming.v1.streaming_pb2 import StreamInit
from longshore.api.services.streaming.v1.streaming_pb2_grpc import StreamingStub
from longshore.api.types.platform_pb2 import Platform
from longshore.api.types.transfer.imagestore_pb2 import ImageReference, ImageStore, UnpackConfiguration
from longshore.api.types.transfer.importexport_pb2 import ImageExportStream, ImageImportStream
from longshore.api.types.transfer.registry_pb2 import OCIRegistry
from longshore.api.types.transfer.streaming_pb2 import Data
from longshore.api.typeurls import pack
from longshore.containerd.scope import Scope
from support.daemon import Longshore
from support.images import oci_archive
from support.layers import layer, member
from support.remote import RemoteSnapshotter, channel
from support.transfer import TransferClient

NAME = "docker.io/test/tree:1"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as running:
        yield running


@pytest.fixture
async def opened(daemon: Longshore) -> AsyncIterator[grpc.aio.Channel]:
    async with channel(daemon.address) as found:
        yield found


class User:
    def __init__(self, opened: grpc.aio.Channel) -> None:
        self.namespace = f"x{uuid.uuid4().hex[:10]}"
        self.client = TransferClient(opened, self.namespace)
        self.images, self.leases = ImagesStub(opened), LeasesStub(opened)
        self.snapshots = RemoteSnapshotter(opened, "overlayfs")

    async def names(self) -> list[str]:
        found = await self.images.List(ListImagesRequest(), metadata=self.client.metadata)
        return [image.name for image in found.images]

    async def image(self, name: str) -> Image:
        found = await self.images.Get(GetImageRequest(name=name), metadata=self.client.metadata)
        return found.image

    async def imported(self, data: bytes, target: ImageStore) -> list[str]:
        """Import, and the words of its progress."""
        stream = await self.client.open()
        upload = asyncio.create_task(stream.upload(data))
        try:
            news = await self.client.watched(ImageImportStream(stream=stream.id), target)
        except BaseException:
            upload.cancel()  # an upload that the daemon has ended fails in ways of its own
            await asyncio.wait([upload])
            raise
        await upload
        async for _ in stream.messages():  # credit that wasn't needed, then the end
            pass
        return [message.event for message in news]

    async def exported(self, *names: str) -> bytes:
        stream = await self.client.open()
        download = asyncio.create_task(stream.download())
        source = ImageStore(extra_references=[ImageReference(name=name) for name in names])
        await self.client.transfer(source, ImageExportStream(stream=stream.id))
        return await download


@pytest.fixture
def user(opened: grpc.aio.Channel) -> User:
    return User(opened)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    big = os.urandom(700_000)
    layers = [layer(member("big", data=big)), layer(member("small", data=b"x"), member("big2", data=big))]
    path = oci_archive(tmp_path_factory.mktemp("archive") / "tree.tar", NAME, layers)
    return path.read_bytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
async def test_an_archive_goes_in_and_is_unpacked(user: User, archive: bytes, pack: object) -> None:
    packed: bytes = pack(archive)  # type: ignore[operator]
    unpack = UnpackConfiguration(snapshotter="overlayfs", platform=Platform())
    words = await user.imported(packed, ImageStore(unpacks=[unpack]))
    assert words[0] == "Importing" and words[-1] == "Completed import" and "saved" in words
    assert await user.names() == [NAME]
    scope = Scope(user.namespace)
    infos = [info async for block in user.snapshots.walk(scope, []) for info in block]
    assert len(infos) == 2 and all(info.kind == 3 for info in infos)
    left = await user.leases.List(ListRequest(), metadata=user.client.metadata)
    assert not left.leases


async def test_what_goes_out_comes_in_again(user: User, archive: bytes) -> None:
    await user.imported(archive, ImageStore())
    target = (await user.image(NAME)).target
    data = await user.exported(NAME)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert manifest[0]["RepoTags"] == [NAME] and len(names) == len(set(names)) == 7
    again = ImageStore(
        extra_references=[ImageReference(name="other", is_prefix=True, allow_overwrite=True, add_digest=True)]
    )
    await user.imported(data, again)
    assert sorted(await user.names()) == [NAME, f"other@{target.digest}"]


async def test_a_docker_save_file_goes_in(user: User) -> None:
    plain = layer(member("f", data=b"data"))
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
    }
    described = [{"Config": "c.json", "RepoTags": ["box:1"], "Layers": ["a/layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        files = {
            "a/layer.tar": plain,
            "c.json": json.dumps(config).encode(),
            "manifest.json": json.dumps(described).encode(),
        }
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    await user.imported(buffer.getvalue(), ImageStore(name="all", unpacks=[UnpackConfiguration()]))
    assert await user.names() == ["all", "docker.io/library/box:1"]


@pytest.mark.parametrize(
    "data", [b"", b"nonsense" * 100_000, b"\x28\xb5\x2f\xfdnonsense", gzip.compress(b"x" * 5000)]
)
async def test_what_is_no_archive_is_refused(user: User, data: bytes) -> None:
    with pytest.raises(errors.InvalidArgument, match="image archive"):
        await user.imported(data, ImageStore())
    assert await user.names() == []


async def test_a_wrong_blob_is_refused(user: User, tmp_path: Path) -> None:
    # Of its own: bytes that another namespace has aren't even looked at.
    archive = oci_archive(tmp_path / "a.tar", NAME, [layer(member("own", data=os.urandom(9)))]).read_bytes()
    at = archive.index(b'"rootfs"')
    with pytest.raises((errors.FailedPrecondition, errors.InvalidArgument)):
        await user.imported(archive[:at] + b'"ROOTFS"' + archive[at + 8 :], ImageStore())
    assert await user.names() == []


async def test_a_client_that_goes_in_the_middle_leaves_nothing_locked(user: User, archive: bytes) -> None:
    stream = await user.client.open()
    source = ImageImportStream(stream=stream.id)
    transfer = asyncio.create_task(user.client.transfer(source, ImageStore()))
    await stream.send(_some(archive[:30_000]))
    await stream.receive()
    transfer.cancel()
    stream.cancel()
    await asyncio.wait([transfer])
    await user.imported(archive, ImageStore())
    assert await user.names() == [NAME]


async def test_tagging(user: User, archive: bytes) -> None:
    await user.imported(archive, ImageStore())
    await user.client.transfer(ImageStore(name=NAME), ImageStore(name="other", labels={"a": "b"}))
    assert (await user.image("other")).target == (await user.image(NAME)).target
    with pytest.raises(errors.NotFound):
        await user.client.transfer(ImageStore(name="none"), ImageStore(name="other"))


async def test_pairs_and_streams_that_are_not_there(user: User) -> None:
    with pytest.raises(errors.Unimplemented):
        await user.client.transfer(OCIRegistry(reference="a"), ImageExportStream(stream="x"))
    with pytest.raises(errors.Unimplemented):
        await user.client.transfer(Platform(), ImageStore())
    with pytest.raises(errors.NotFound, match='stream "x"'):
        await user.client.transfer(ImageImportStream(stream="x"), ImageStore())


async def test_a_stream_has_its_name_alone_and_begins_rightly(user: User, opened: grpc.aio.Channel) -> None:
    stream = await user.client.open()
    for first, code in ((pack(_init(stream.id)), "ALREADY_EXISTS"), (pack(Platform()), "INVALID_ARGUMENT")):
        call = StreamingStub(opened).Stream(metadata=user.client.metadata)
        await call.write(first)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code().name == code
    stream.cancel()


def _init(id: str) -> StreamInit:
    return StreamInit(id=id)


def _some(data: bytes) -> Data:
    return Data(data=data)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_the_daemon_stops_with_streams_open() -> None:
    async def hold(running: Longshore) -> None:
        async with channel(running.address) as opened:
            await TransferClient(opened, "x").open()
            assert await asyncio.to_thread(running.stop) == 0

    with Longshore() as running:
        asyncio.run(hold(running))
