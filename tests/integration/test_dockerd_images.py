"""dockerd's images on our containerd: archives, names, conflicts, sizes, what is left."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore.api.errors import InvalidArgument, NotFound
from longshore.client.content import digest_of
from longshore.dockerd.errors import Conflict
from longshore.dockerd.images import names
from longshore.dockerd.images.store import Images
from longshore.dockerd.records import Container, ContainerConfig, ContainerState, HostConfig
from support import images as samples
from support.daemon import Longshore
from support.enginekit import images_on

V = (1, 41)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as daemon:
        yield daemon


@pytest.fixture
async def images(daemon: Longshore, tmp_path: Path) -> AsyncIterator[Images]:
    async with images_on(daemon, tmp_path) as images:
        yield images


def layer(name: str, size: int = 5000) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = size
        tar.addfile(entry, io.BytesIO(bytes(size)))
    return buffer.getvalue()


def docker_archive(tags: list[str] | None, *layers: bytes, **config: Any) -> bytes:
    """As ``docker save`` wrote them before it knew OCI layouts."""
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "created": "2024-05-06T07:08:09.5Z",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in layers]},
        "history": [{"created_by": f"layer {place}"} for place, _ in enumerate(layers)],
    }
    text = json.dumps(image).encode()
    files = {f"{place}/layer.tar": data for place, data in enumerate(layers)}
    name = digest_of(text).partition(":")[2] + ".json"
    entry = {"Config": name, "RepoTags": tags, "Layers": list(files)}
    files |= {name: text, "manifest.json": json.dumps([entry]).encode()}
    return tar_of(files)


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


async def load(images: Images, archive: bytes) -> list[str]:
    return [line["stream"].strip() async for line in images.load(io.BytesIO(archive)) if "stream" in line]


def container(image_id: str, status: str = "exited") -> Container:
    return Container(
        id="c" * 64,
        name="c",
        created_ns=1,
        config=ContainerConfig(),
        host_config=HostConfig(),
        image_id=image_id,
        image_ref="box",
        state=ContainerState(status=status),
    )


async def test_loads_a_docker_archive(images: Images) -> None:
    said = await load(images, docker_archive(["box:1", "host:5000/box:2"], layer("a"), layer("b")))
    assert said == ["Loaded image: box:1", "Loaded image: host:5000/box:2"]
    info = await images.resolve("box:1")
    assert info == await images.resolve(info.id[7:19])
    assert info.names == ("box:1", "host:5000/box:2")
    await images.client.snapshots().stat(info.chain_id)
    (summary,) = await images.summaries({}, V)
    assert summary["Id"] == info.id
    assert summary["Created"] == 1714979289
    assert 10000 <= summary["Size"] <= 40000
    steps = await images.history("box:1")
    assert [(step["CreatedBy"], step["Id"]) for step in steps] == [
        ("layer 1", info.id),
        ("layer 0", "<missing>"),
    ]


async def test_loads_an_oci_archive(images: Images, tmp_path: Path) -> None:
    path = samples.oci_archive(tmp_path / "a.tar", "docker.io/library/box:latest", [layer("a")])
    assert await load(images, path.read_bytes()) == ["Loaded image: box:latest"]
    found = await images.inspect("box", V)
    assert found["RepoTags"] == ["box:latest"]
    assert found["RepoDigests"] == []
    assert found["Config"]["Env"] == ["PATH=/bin"]
    assert found["RootFS"]["Layers"] == [digest_of(layer("a"))]


async def test_a_name_goes_from_image_to_image(images: Images) -> None:
    await load(images, docker_archive(["box"], layer("a")))
    old = await images.resolve("box")
    said = await load(images, docker_archive(["box"], layer("b")))
    assert said == [
        f"The image box:latest already exists, renaming the old one with ID {old.id} to empty string",
        "Loaded image: box:latest",
    ]
    assert (await images.resolve(old.id)).names == ()
    (dangling,) = await images.summaries({"dangling": ["true"]}, V)
    assert (dangling["Id"], dangling["RepoTags"]) == (old.id, ["<none>:<none>"])
    await images.tag(old.id, names.parse("again"))
    assert await images.summaries({"dangling": ["true"]}, V) == []


async def test_an_archive_without_names(images: Images) -> None:
    (said,) = await load(images, docker_archive(None, layer("a")))
    image_id = said.removeprefix("Loaded image ID: ")
    assert await images.remove(image_id, []) == [{"Deleted": image_id}, {"Deleted": digest_of(layer("a"))}]
    assert await images.summaries({}, V, every=True) == []


@pytest.mark.parametrize("name", ["nothing", "nothing:1", "nothing@sha256:" + "0" * 64])
async def test_no_such_image(images: Images, name: str) -> None:
    whole = name if ":" in name else f"{name}:latest"
    with pytest.raises(NotFound, match=rf"^No such image: {whole}$"):
        await images.resolve(name)


async def test_removal(images: Images) -> None:
    await load(images, docker_archive(["box:1", "box:2"], layer("a")))
    image_id = (await images.resolve("box:1")).id
    short = names.short(image_id)
    with pytest.raises(Conflict) as error:
        await images.remove(image_id, [])
    assert error.value.message == (
        f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    )
    assert await images.remove("box:1", [container(image_id)]) == [{"Untagged": "box:1"}]
    with pytest.raises(Conflict) as error:
        await images.remove("box:2", [container(image_id)])
    assert error.value.message == (
        'conflict: unable to remove repository reference "box:2" (must force) - container cccccccccccc'
        f" is using its referenced image {short}"
    )
    with pytest.raises(Conflict) as error:
        await images.remove(short, [container(image_id, "running")], force=True)
    assert error.value.message == (
        f"conflict: unable to delete {short} (cannot be forced) - image is being used by running"
        " container cccccccccccc"
    )
    assert await images.remove("box:2", [container(image_id, "running")], force=True) == [
        {"Untagged": "box:2"}
    ]
    assert [entry["Id"] for entry in await images.summaries({}, V)] == [image_id]
    done = await images.remove(short, [container(image_id)], force=True)
    assert done == [{"Deleted": image_id}, {"Deleted": digest_of(layer("a"))}]
    assert await images.client.images.list() == []
    assert await images.client.snapshots().list() == []


async def test_shared_layers_stay(images: Images) -> None:
    await load(images, docker_archive(["one"], layer("a")))
    await load(images, docker_archive(["two"], layer("a"), layer("b")))
    done = await images.remove("two", [])
    assert [next(iter(step)) for step in done] == ["Untagged", "Deleted", "Deleted"]
    await images.resolve("one")


@pytest.mark.parametrize(
    "archive",
    [
        b"no archive",
        tar_of({"a": b"b"}),
        tar_of({"manifest.json": b"{}"}),
        tar_of({"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'}),
        tar_of({"manifest.json": b'[{"Config": {}, "Layers": 3}]'}),
        tar_of({"blobs/sha256/" + "0" * 64: b"something else"}),
        docker_archive(["box"], layer("a"))[:3000],
    ],
)
async def test_bad_archives(images: Images, archive: bytes) -> None:
    with pytest.raises(Exception) as error:
        await load(images, archive)
    assert type(error.value).__module__.startswith("longshore"), error.value
    assert await images.client.images.list() == []


async def test_a_bad_name_in_an_archive(images: Images) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid reference format"):
        await load(images, docker_archive(["../../box"], layer("a")))
