"""Pull and push by Transfer between our daemon and Debian's docker-registry."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from longshore.api import errors
from longshore.api.services.images.v1.images_pb2 import ListImagesRequest
from longshore.api.services.images.v1.images_pb2_grpc import ImagesStub
from longshore.api.types.platform_pb2 import Platform
from longshore.api.types.transfer.imagestore_pb2 import ImageReference, ImageStore, UnpackConfiguration
from longshore.api.types.transfer.registry_pb2 import (
    AuthResponse,
    AuthType,
    OCIRegistry,
    RegistryResolver,
)
from longshore.containerd.scope import Scope
from longshore.registry.client import Registry as Door
from support import require
from support.daemon import Longshore
from support.layers import layer, member
from support.registry import PASSWORD, USER, Registry, publish, publish_index
from support.remote import RemoteContent, RemoteSnapshotter, channel
from support.transfer import TransferClient

LAYERS = [layer(member("big", data=os.urandom(3 << 20))), layer(member("small", data=b"x"))]
UNPACK = [UnpackConfiguration(platform=Platform(os="linux", architecture="amd64"))]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    require.go("docker-registry")
    with Registry() as running:
        asyncio.run(_publish(running))
        yield running


async def _publish(registry: Registry) -> None:
    await publish(registry.name("team/plain:1"), LAYERS)
    parts = [
        await publish(
            registry.name("team/index:x"), [LAYERS[0], layer(member("a", data=text.encode()))], platform=text
        )
        for text in ("linux/arm64", "linux/amd64")
    ]
    await publish_index(registry.name("team/index:1"), parts)


VERIFIER = """version = 3
[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = "{}"
"""


@pytest.fixture(scope="module")
def verifiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verifiers")


@pytest.fixture(scope="module")
def daemon(verifiers: Path) -> Iterator[Longshore]:
    with Longshore(config=VERIFIER.format(verifiers)) as running:
        yield running


@pytest.fixture
async def opened(daemon: Longshore) -> AsyncIterator[grpc.aio.Channel]:
    async with channel(daemon.address) as found:
        yield found


@pytest.fixture
def user(opened: grpc.aio.Channel) -> TransferClient:
    return TransferClient(opened, f"x{uuid.uuid4().hex[:10]}")


async def names(opened: grpc.aio.Channel, user: TransferClient) -> list[str]:
    found = await ImagesStub(opened).List(ListImagesRequest(), metadata=user.metadata)
    return [image.name for image in found.images]


def scope(user: TransferClient) -> Scope:
    return Scope(user.metadata[0][1])


async def test_pull_unpacks_and_tells(
    opened: grpc.aio.Channel, user: TransferClient, registry: Registry
) -> None:
    name = registry.name("team/plain:1")
    extra = [ImageReference(name="mine"), ImageReference(name="by", add_digest=True)]
    news = await user.watched(OCIRegistry(reference=name), ImageStore(unpacks=UNPACK, extra_references=extra))
    words = [message.event for message in news]
    assert words[0] == f"Resolving from {name}" and words[-1] == f"Completed pull from {name}"
    assert {"fetching image content", "waiting", "complete", "extracting", "extracted", "saved"} <= {*words}
    found = await names(opened, user)
    assert found[0].startswith("by") and found[-2:] == [name, "mine"]
    snapshots = RemoteSnapshotter(opened, "overlayfs")
    infos = [info async for block in snapshots.walk(scope(user), []) for info in block]
    assert sorted(bool(info.parent) for info in infos) == [False, True]


async def test_pull_takes_the_wanted_platform_alone(
    opened: grpc.aio.Channel, user: TransferClient, registry: Registry
) -> None:
    wanted = [Platform(os="linux", architecture="arm64")]
    source = OCIRegistry(reference=registry.name("team/index:1"))
    await user.transfer(source, ImageStore(platforms=wanted))
    blobs = [info async for block in RemoteContent(opened).list(scope(user), []) for info in block]
    assert len(blobs) == 5  # index, manifest, config, two layers
    with pytest.raises(errors.NotFound, match="riscv64"):
        await user.transfer(source, ImageStore(platforms=[Platform(os="linux", architecture="riscv64")]))


async def test_push_brings_what_pull_brought(user: TransferClient, registry: Registry) -> None:
    source, copy = registry.name("team/index:1"), registry.name(f"copy/{uuid.uuid4().hex}:1")
    await user.transfer(OCIRegistry(reference=source), ImageStore())
    news = await user.watched(ImageStore(name=source), OCIRegistry(reference=copy))
    assert news[-1].event == f"Completed push to {copy}"
    async with Door() as door:
        assert await door.repository(copy).resolve() == await door.repository(source).resolve()
    with pytest.raises(errors.NotFound):
        await user.transfer(ImageStore(name="none"), OCIRegistry(reference=copy))


async def test_what_is_not_there(user: TransferClient, registry: Registry) -> None:
    with pytest.raises(errors.NotFound):
        await user.transfer(OCIRegistry(reference=registry.name("team/none:1")), ImageStore())
    with pytest.raises(errors.InvalidArgument):
        await user.transfer(OCIRegistry(reference="UPPER/*"), ImageStore())


async def test_credentials_are_asked_for_on_a_stream(opened: grpc.aio.Channel, user: TransferClient) -> None:
    with Registry(htpasswd=True) as guarded:
        name = guarded.name("secret/box:1")
        for password, expected in (("wrong", errors.Unauthenticated), (PASSWORD, errors.NotFound)):
            stream = await user.open()

            def answer(_: object, password: str = password) -> AuthResponse:
                return AuthResponse(authType=AuthType.CREDENTIALS, username=USER, secret=password)

            answering = asyncio.create_task(stream.answer(answer))
            source = OCIRegistry(reference=name, resolver=RegistryResolver(auth_stream=stream.id))
            with pytest.raises(expected):
                await user.transfer(source, ImageStore())
            asked = await asyncio.wait_for(answering, 60)
            assert [(each.host, each.reference) for each in asked] == [(guarded.address, name)]
        with pytest.raises(errors.Unauthenticated):
            await user.transfer(OCIRegistry(reference=name), ImageStore())


async def test_verifiers_are_asked(
    opened: grpc.aio.Channel, user: TransferClient, registry: Registry, verifiers: Path
) -> None:
    program = verifiers / "check"
    program.write_text(
        '#!/bin/sh\ncat >/dev/null\ncase "$2" in *plain*) echo "no plain food"; exit 3;; esac\n'
    )
    program.chmod(0o755)
    try:
        with pytest.raises(errors.PermissionDenied, match="no plain food"):
            await user.transfer(OCIRegistry(reference=registry.name("team/plain:1")), ImageStore())
        assert await names(opened, user) == []
        await user.transfer(OCIRegistry(reference=registry.name("team/index:1")), ImageStore())
    finally:
        program.unlink()


async def test_many_at_once_meet(opened: grpc.aio.Channel, user: TransferClient, registry: Registry) -> None:
    source = OCIRegistry(reference=registry.name("team/plain:1"))
    await asyncio.gather(*(user.transfer(source, ImageStore(name=f"n{n}", unpacks=UNPACK)) for n in range(6)))
    assert await names(opened, user) == [f"n{n}" for n in range(6)]
