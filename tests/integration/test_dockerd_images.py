"""dockerd's images on our containerd: archives, names, conflicts, sizes, what is left."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from longshore.api.errors import Error, InvalidArgument, NotFound
from longshore.client.content import digest_of
from longshore.dockerd.errors import Conflict
from longshore.dockerd.images import names
from longshore.dockerd.images.importing import Wish
from longshore.dockerd.images.store import Images
from longshore.dockerd.records import Container, ContainerConfig, ContainerState, HostConfig
from support import images as samples
from support.daemon import Longshore
from support.enginekit import images_on, layer

V = (1, 41)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as daemon:
        yield daemon


@pytest.fixture
async def images(daemon: Longshore, tmp_path: Path) -> AsyncIterator[Images]:
    async with images_on(daemon, tmp_path) as images:
        yield images


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
    assert done == [{"Deleted": image_id}]  # the container keeps its layers
    assert await images.client.images.list() == []


async def test_shared_layers_stay(images: Images) -> None:
    await load(images, docker_archive(["one"], layer("a")))
    await load(images, docker_archive(["two"], layer("a"), layer("b")))
    done = await images.remove("two", [])
    assert [next(iter(step)) for step in done] == ["Untagged", "Deleted", "Deleted"]
    await images.resolve("one")


async def test_what_is_shared(images: Images) -> None:
    await load(images, docker_archive(["one"], layer("a", 100_000)))
    await load(images, docker_archive(["two"], layer("a", 100_000), layer("b", 50_000)))
    found = {entry["RepoTags"][0]: entry for entry in await images.summaries({}, V, shared=True)}
    one, two = found["one:latest"], found["two:latest"]
    assert one["SharedSize"] == two["SharedSize"] == one["Size"] >= 100_000
    assert await images.layers_size() == two["Size"] >= 150_000


async def blocks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 700):
        yield data[start : start + 700]


async def import_(images: Images, data: bytes, wish: Wish | None = None) -> str:
    (line,) = [line async for line in images.import_tar(blocks(data), wish or Wish())]
    return str(line["status"])


async def save(images: Images, *asked: str) -> bytes:
    return b"".join([block async for block in images.save(await images.choose(asked))])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress, bz2.compress, lzma.compress])
async def test_import(images: Images, pack: Callable[[bytes], bytes]) -> None:
    changes = ['CMD ["a"]', "ENV X=1\nLABEL l=m", "EXPOSE 80"]
    image_id = await import_(images, pack(layer("a")), Wish(names.parse("box"), "imported", changes))
    found = await images.inspect("box", V)
    assert found["Id"] == image_id
    assert found["RootFS"]["Layers"] == [digest_of(layer("a"))]
    assert found["Config"]["Cmd"] == ["a"]
    assert found["Config"]["Env"] == ["X=1"]
    assert found["Config"]["Labels"] == {"l": "m"}
    assert found["Comment"] == "imported"
    assert [step["Comment"] for step in await images.history("box")] == ["imported"]
    await images.resolve("box")


@pytest.mark.parametrize("data", [b"no tar at all" * 100, gzip.compress(b"x" * 5000)[:40], b"BZh9nonsense"])
async def test_import_of_what_is_no_tar(images: Images, data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        await import_(images, data)
    assert await images.client.images.list() == []
    assert await images.client.snapshots().list() == []


async def test_save_and_load(images: Images) -> None:
    await load(images, docker_archive(["box:1", "box:2", "other"], layer("a"), layer("b")))
    image_id = (await images.resolve("box:1")).id
    for asked, tags in (
        (("box",), ["box:1", "box:2"]),
        (("box:2",), ["box:2"]),
        (("other", "box:1"), ["other:latest", "box:1"]),
        ((image_id,), None),
        ((image_id[7:],), None),
        ((image_id[7:20],), None),
    ):
        data = await save(images, *asked)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())
            assert [entry["RepoTags"] for entry in manifest] == [tags]
            assert all(tar.getmember(path).isreg() for entry in manifest for path in entry["Layers"])
    everything = await save(images, "box", "other")
    for name in ("box:1", "box:2", "other"):
        await images.remove(name, [])
    assert await images.client.images.list() == []
    said = await load(images, everything)
    assert said == ["Loaded image: box:1", "Loaded image: box:2", "Loaded image: other:latest"]
    assert (await images.resolve("other")).id == image_id
    with pytest.raises(NotFound, match=r"^No such image: none$"):
        await save(images, "none")


async def test_prune(images: Images) -> None:
    await load(images, docker_archive(["used"], layer("a")))
    used = (await images.resolve("used")).id
    await load(images, docker_archive(["idle"], layer("b"), Labels={"keep": "1"}))
    await load(images, docker_archive(None, layer("c")))
    done = await images.prune({}, [container(used)])
    assert [next(iter(step)) for step in done["ImagesDeleted"]] == ["Deleted", "Deleted"]
    assert done["SpaceReclaimed"] >= 5000
    every = {"dangling": ["false"]}
    assert (await images.prune({**every, "label!": ["keep"]}, [container(used)]))["ImagesDeleted"] is None
    done = await images.prune(every, [container(used)])
    assert done["ImagesDeleted"][0] == {"Untagged": "idle:latest"}
    assert [entry["RepoTags"] for entry in await images.summaries({}, V)] == [["used:latest"]]


async def test_make(images: Images) -> None:
    await load(images, docker_archive(["base"], layer("a"), Env=["A=1"]))
    base = await images.resolve("base")
    snapshots = images.client.snapshots()
    await snapshots.prepare("work", base.chain_id)
    config = {**base.config, "config": {"Cmd": ["x"]}, "container_config": {"Cmd": ["do", "it"]}}
    config.pop("history")
    config.pop("created")
    same = await images.make(base, "work", config, ["child:1"])
    assert same.chain_id == base.chain_id  # nothing was changed: no layer
    child = await images.make(base, "", {**config, "config": {"Cmd": ["y"]}})
    steps = await images.history(child.id)
    assert (steps[0]["CreatedBy"], steps[0]["Size"]) == ("do it", 0)
    assert [step["Id"] for step in steps] == [child.id, base.id]
    assert (await images.inspect("child:1", V))["Parent"] == base.id
    assert [entry["Id"] for entry in await images.summaries({}, V)][:2] == [child.id, same.id]
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image has dependent child images"):
        await images.remove(base.id, [], force=True)
    assert await images.remove("base", []) == [{"Untagged": "base:latest"}]
    await images.remove(child.id, [])
    done = await images.remove("child:1", [])
    assert [*done[1].values(), *done[2].values()] == [same.id, base.id]


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
        tar_of({"manifest.json": b"[" * 100_000}),
        tar_of({"oci-layout": b"{}", "index.json": b"[1]"}),
        tar_of({"oci-layout": b"{}", "index.json": b'{"manifests": [7]}'}),
        tar_of(
            {"oci-layout": b"{}", "index.json": b'{"manifests": [{"digest": "sha256:../../x", "size": 3}]}'}
        ),
        docker_archive(["box"], layer("a"), Labels=["no", "dictionary"]),
        docker_archive(["box"], layer("a"), Labels={"a": {"b": 1}}),
        docker_archive(["box"], layer("a"), layer("a")).replace(b"sha256:", b"sha257:"),
        docker_archive(["box"], b"no tar" * 1000),
        tar_of({f"{place}.json": bytes(8 << 20) for place in range(9)}),
    ],
    ids=lambda archive: "",
)
async def test_bad_archives(images: Images, archive: bytes) -> None:
    with pytest.raises(Error):
        await load(images, archive)
    assert await images.client.images.list() == []
    await images.client.leases.delete((await images.client.leases.create()).id, sync=True)
    assert await images.client.content.statuses() == []
    assert await images.client.content.list() == []
    assert await images.client.snapshots().list() == []


async def test_names_change_one_at_a_time(images: Images) -> None:
    """Many at once: a name is one image's, and none that has a name counts as nameless."""
    for place in range(3):
        await load(images, docker_archive([f"kept:{place}", f"gone:{place}"], layer(f"l{place}")))
    ids = [(await images.resolve(f"kept:{place}")).id for place in range(3)]
    await asyncio.gather(
        *(images.tag(ids[turn % 3], names.parse(f"moving:{turn % 4}")) for turn in range(24)),
        *(images.remove(f"gone:{place}", []) for place in range(3)),
    )
    entries = await images.catalogue.entries()
    assert set(entries) == set(ids)
    tags = [tag for entry in entries.values() for tag in entry.repo_tags]
    assert sorted(tags) == [*(f"kept:{place}" for place in range(3)), *(f"moving:{p}" for p in range(4))]
    assert not [r for entry in entries.values() for r in entry.records if names.is_dangling(r.name)]


async def test_a_bad_name_in_an_archive(images: Images) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid reference format"):
        await load(images, docker_archive(["../../box"], layer("a")))
