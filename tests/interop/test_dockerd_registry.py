"""dockerd's images and Debian's docker-registry: pull, push, credentials, mirrors, words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from longshore.api.errors import Error, NotFound
from longshore.client import oci
from longshore.client.registries import options
from longshore.dockerd.errors import ServerError
from longshore.dockerd.images import distribution, names
from longshore.dockerd.images.importing import Wish
from longshore.dockerd.images.registries import Auth
from longshore.dockerd.images.store import Images
from support.daemon import Longshore
from support.enginekit import Heard, images_on, layer
from support.registry import PASSWORD, USER, Registry, publish, publish_index
from support.tokens import TokenServer

V = (1, 41)
NOBODY = Auth()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
async def images(daemon: Longshore, tmp_path: Path) -> AsyncIterator[Images]:
    async with images_on(daemon, tmp_path) as images:
        yield images


async def pull(images: Images, name: str, auth: Auth = NOBODY, **options: Any) -> list[dict[str, Any]]:
    return [line async for line in images.pull(names.parse(name), auth, **options)]


async def push(images: Images, name: str, auth: Auth = NOBODY) -> list[dict[str, Any]]:
    reference = names.parse(name)
    return [line async for line in images.push(reference, reference.tag, auth)]


def statuses(lines: list[dict[str, Any]]) -> list[str]:
    return [line["status"] for line in lines if line.get("status") != "Downloading"]


async def test_pull_says_what_docker_says(images: Images, registry: Registry) -> None:
    name = registry.name("tree/one:1")
    manifest = await publish(name, [layer("a"), layer("b")])
    lines = await pull(images, name)
    assert lines[0] == {"status": "Pulling from tree/one", "id": "1"}
    per_layer = ["Pulling fs layer", "Verifying Checksum", "Download complete", "Extracting", "Pull complete"]
    said = statuses(lines)
    assert sorted(said[1:-2]) == sorted(per_layer * 2)
    assert said[-2:] == [f"Digest: {manifest.digest}", f"Status: Downloaded newer image for {name}"]
    found = await images.inspect(name, V)
    assert found["RepoTags"] == [name]
    assert found["RepoDigests"] == [f"{registry.name('tree/one')}@{manifest.digest}"]
    assert isinstance(images.events, Heard)
    assert images.events.heard == [("pull", name, registry.name("tree/one"))]
    again = statuses(await pull(images, name))
    assert again[0] == "Pulling from tree/one"
    assert again[-1] == f"Status: Image is up to date for {name}"
    by_digest = f"{registry.name('tree/one')}@{manifest.digest}"
    assert (await images.resolve(by_digest)).id == found["Id"]
    done = await images.remove(name, [])
    assert done[:2] == [{"Untagged": name}, {"Untagged": by_digest}]
    assert await images.client.images.list() == []


async def test_pull_by_digest(images: Images, registry: Registry) -> None:
    name = registry.name("tree/digest:1")
    manifest = await publish(name, [layer("a")])
    by_digest = f"{registry.name('tree/digest')}@{manifest.digest}"
    lines = await pull(images, by_digest)
    assert lines[0] == {"status": "Pulling from tree/digest", "id": manifest.digest}
    (summary,) = await images.summaries({}, V)
    assert (summary["RepoTags"], summary["RepoDigests"]) == ([], [by_digest])


async def test_a_platform_out_of_an_index(images: Images, registry: Registry) -> None:
    repository = registry.name("tree/many")
    host = str(oci.host_platform())
    parts = [
        await publish(f"{repository}:{name}", [layer(name)], platform=platform)
        for name, platform in (("host", host), ("other", "linux/s390x"))
    ]
    index = await publish_index(f"{repository}:1", parts)
    await pull(images, f"{repository}:1")
    mine = await images.inspect(f"{repository}:1", V)
    assert mine["RepoDigests"] == [f"{repository}@{index.digest}"]
    await pull(images, f"{repository}:1", platform=oci.Platform("linux", "s390x"))
    other = await images.inspect(f"{repository}:1", V)
    assert (mine["Architecture"], other["Architecture"]) == (oci.host_platform().architecture, "s390x")
    assert {entry["Id"] for entry in await images.summaries({}, V)} == {mine["Id"], other["Id"]}
    with pytest.raises(NotFound) as error:
        await pull(images, f"{repository}:1", platform=oci.Platform("linux", "mips"))
    assert error.value.message == "no matching manifest for linux/mips in the manifest list entries"


async def test_every_tag(images: Images, registry: Registry) -> None:
    repository = registry.name("tree/all")
    for tag in "abc":
        await publish(f"{repository}:{tag}", [layer(tag)])
    await pull(images, repository, every=True)
    tags = [tag for entry in await images.summaries({}, V) for tag in entry["RepoTags"]]
    assert sorted(tags) == [f"{repository}:{tag}" for tag in "abc"]


async def test_words_of_failures(images: Images, registry: Registry) -> None:
    name = registry.name("tree/none:9")
    with pytest.raises(NotFound) as error:
        await pull(images, name)
    assert error.value.message == f"manifest for {name} not found: manifest unknown: manifest unknown"
    with pytest.raises(ServerError, match="connection refused"):
        await pull(images, "localhost:1/x")


async def test_credentials(daemon: Longshore, images: Images) -> None:
    with Registry(htpasswd=True) as private:
        name = private.name("box:1")
        with pytest.raises(ServerError, match=r"no basic auth credentials$"):
            await pull(images, name)
        with pytest.raises(ServerError, match=r"^unauthorized: authentication required$"):
            await pull(images, name, Auth(username=USER, password="wrong"))
        with pytest.raises(NotFound, match=r"^manifest for .* not found: manifest unknown"):
            await pull(images, name, Auth(username=USER, password=PASSWORD))
        lines = images.push(names.parse(name), "1", NOBODY)
        assert await anext(lines) == {"status": f"The push refers to repository [{private.name('box')}]"}
        with pytest.raises(Error) as error:
            await anext(lines)
        assert error.value.message == f"An image does not exist locally with the tag: {private.name('box')}"


async def test_push(images: Images, registry: Registry) -> None:
    source, target = registry.name("push/from:1"), registry.name("push/to:2")
    manifest = await publish(source, [layer("p"), layer("q")], style="docker")
    await pull(images, source)
    await images.tag(source, names.parse(target))
    lines = await push(images, target)
    facts = (await images.find(target)).facts
    shown = [names.short(diff_id) for diff_id in facts.diff_ids]
    assert lines[0] == {"status": f"The push refers to repository [{registry.name('push/to')}]"}
    assert [line["id"] for line in lines[1:3]] == shown
    mounted = [line["id"] for line in lines if line.get("status", "").startswith("Mounted from push/from")]
    assert sorted(mounted) == sorted(shown)
    assert lines[-2]["status"] == f"2: digest: {manifest.digest} size: {manifest.size}"
    assert lines[-1]["aux"] == {"Tag": "2", "Digest": manifest.digest, "Size": manifest.size}
    assert f"{registry.name('push/to')}@{manifest.digest}" in (await images.inspect(target, V))["RepoDigests"]
    again = statuses((await push(images, target))[:-1])
    assert again.count("Layer already exists") == 2
    with pytest.raises(ServerError, match=r"^tag does not exist: .*push/to:9$"):
        await push(images, registry.name("push/to:9"))


async def test_a_mirror_of_the_hub(daemon: Longshore, registry: Registry, tmp_path: Path) -> None:
    await publish(registry.name("library/mirrored:1"), [layer("m")])
    mirrors = [f"http://{registry.address}"]
    async with images_on(daemon, tmp_path, registry_mirrors=mirrors) as images:
        assert statuses(await pull(images, "mirrored:1"))[0] == "Pulling from library/mirrored"
        assert (await images.inspect("mirrored:1", V))["RepoTags"] == ["mirrored:1"]


async def test_a_registry_whose_certificate_nobody_knows(images: Images, tmp_path: Path) -> None:
    """On this machine that is no obstacle, as Docker has it."""
    leaf = trustme.CA().issue_cert("localhost")
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    with Registry(tls=(tmp_path / "cert.pem", tmp_path / "key.pem")) as secure:
        name = secure.name("tls/box:1")
        await publish(name, [layer("t")], options=options(skip_verify=True))
        assert statuses(await pull(images, name))[-1] == f"Status: Downloaded newer image for {name}"


async def test_a_token_server_says_no(images: Images, tmp_path: Path) -> None:
    with (
        TokenServer(tmp_path, oauth=True, **{USER: PASSWORD}) as tokens,
        Registry(token=tokens.table()) as guarded,
    ):
        name = guarded.name("tree/mine:1")
        owner = Auth(username=USER, password=PASSWORD)
        await load_one(images, name)
        with pytest.raises(ServerError, match=r"^denied: requested access to the resource is denied$"):
            await push(images, name)
        assert (await push(images, name, owner))[-1]["aux"]["Tag"] == "1"
        with pytest.raises(ServerError, match=r"^unauthorized: incorrect username or password$"):
            await push(images, name, Auth(username=USER, password="wrong"))


async def load_one(images: Images, name: str) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        yield layer("x")

    async for _ in images.import_tar(blocks(), Wish(names.parse(name))):
        pass


async def test_what_a_registry_has(images: Images, registry: Registry) -> None:
    repository = registry.name("tree/looked")
    parts = [
        await publish(f"{repository}:{name}", [layer(name)], platform=platform)
        for name, platform in (("a", "linux/amd64"), ("b", "linux/arm64/v8"))
    ]
    index = await publish_index(f"{repository}:1", parts)
    found = await distribution.inspect(images, names.parse(f"{repository}:1"), NOBODY)
    assert found["Descriptor"] == {
        "mediaType": index.media_type,
        "digest": index.digest,
        "size": index.size,
    }
    assert [(each["architecture"], each.get("variant")) for each in found["Platforms"]] == [
        ("amd64", None),
        ("arm64", "v8"),
    ]
    one = await distribution.inspect(images, names.parse(f"{repository}:b"), NOBODY)
    assert one["Platforms"] == [{"architecture": "arm64", "os": "linux", "variant": "v8"}]
    with pytest.raises(NotFound, match="manifest unknown"):
        await distribution.inspect(images, names.parse(f"{repository}:9"), NOBODY)


async def test_what_is_no_image(images: Images, registry: Registry) -> None:
    """An artifact: its content is stored by nobody."""
    name = registry.name("tree/chart:1")
    await publish_index(name, [])
    with pytest.raises(Error):
        await pull(images, name)
    assert await images.client.images.list() == []
