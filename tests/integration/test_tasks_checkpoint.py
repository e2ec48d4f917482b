"""Tasks.Checkpoint and Create from a checkpoint, through a daemon; with the stand-in for criu (itself unverified)."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.api import typeurls
from longshore.api.errors import Error
from longshore.api.services.containers.v1.containers_pb2 import Container
from longshore.api.services.tasks.v1 import tasks_pb2 as pb
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.runc.options.oci_pb2 import CheckpointOptions
from longshore.api.types.task.task_pb2 import RUNNING
from longshore.client import AsyncClient
from longshore.client.connection import translated
from longshore.containerd.tasks.checkpoints import CONFIG, IMAGES
from support import criu, images, require
from support.daemon import Longshore
from support.folders import short_folder

SLEEP = ("/bin/sleep", "1000")

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    require.go("busybox")
    with short_folder() as folder:
        criu.install(folder)
        with Longshore(environment={"PATH": f"{folder}:{os.environ['PATH']}"}) as daemon:
            yield daemon


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    return str(images.busybox_rootfs(tmp_path))


async def checkpoint(client: AsyncClient, id: str, options: CheckpointOptions) -> list[Descriptor]:
    request = pb.CheckpointTaskRequest(container_id=id, options=typeurls.pack(options))
    answer = await client.tasks.call(client.tasks.stub.Checkpoint, request)
    return list(answer.descriptors)


async def test_into_content_and_back(daemon: Longshore, rootfs: str) -> None:
    async with AsyncClient(str(daemon.address), daemon.namespace) as owner, owner.leased() as client:
        container = await client.containers.create("from", rootfs=rootfs, args=SLEEP)
        task = await container.create_task()
        await task.start()
        await checkpoint(client, "from", CheckpointOptions())
        saved, spec = await checkpoint(
            client, "from", CheckpointOptions(exit=True)
        )  # the same spec, stored already
        await task.wait()
        await task.delete()
        assert (saved.media_type, spec.media_type) == (IMAGES, CONFIG)
        data = await client.content.read(saved.digest)
        assert len(data) == saved.size
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert "inventory.img" in tar.getnames()
        recorded = Container(spec=container.record.spec).spec
        assert await client.content.read(spec.digest) == recorded.SerializeToString()

        request = pb.CreateTaskRequest(container_id="from", checkpoint=saved)
        await client.tasks.call(client.tasks.stub.Create, request)
        again = await client.tasks.get("from")
        await again.start()
        assert (await again.state()).status == RUNNING
        await again.destroy()
        await container.delete()


async def test_into_a_folder(daemon: Longshore, rootfs: str, tmp_path: Path) -> None:
    async with AsyncClient(str(daemon.address), daemon.namespace) as client:
        container = await client.containers.create("folder", rootfs=rootfs, args=SLEEP)
        task = await container.create_task()
        await task.start()
        options = CheckpointOptions(image_path=str(tmp_path / "images"))
        assert await checkpoint(client, "folder", options) == []
        assert (tmp_path / "images/inventory.img").read_bytes() == b"image"
        assert (await task.state()).status == RUNNING
        await task.destroy()
        await container.delete()


def archive(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc"
            tar.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "media_type", "words"),
    [
        (b"no archive at all", IMAGES, "is no archive of images"),
        (archive(("../../outside", tarfile.REGTYPE)), IMAGES, "holds '../../outside'"),
        (archive(("link", tarfile.SYMTYPE)), IMAGES, "holds 'link'"),
        (archive(("twice", tarfile.REGTYPE), ("twice", tarfile.REGTYPE)), IMAGES, "is no archive of images"),
        (archive(("fine", tarfile.REGTYPE)), "application/other", "unsupported checkpoint type"),
    ],
    ids=["garbage", "outside", "link", "twice", "media type"],
)
async def test_refused(daemon: Longshore, rootfs: str, data: bytes, media_type: str, words: str) -> None:
    async with AsyncClient(str(daemon.address), daemon.namespace) as owner, owner.leased() as client:
        digest = await client.content.write("bad", data, size=len(data))
        container = await client.containers.create("bad", rootfs=rootfs, args=SLEEP)
        wanted = Descriptor(media_type=media_type, digest=str(digest), size=len(data))
        with pytest.raises(Error, match=words), translated():
            await client.tasks.stub.Create(
                pb.CreateTaskRequest(container_id="bad", checkpoint=wanted),
                metadata=client.connection.metadata,
            )
        with pytest.raises(Error, match="not found"):
            await client.tasks.get("bad")
        await container.delete()
