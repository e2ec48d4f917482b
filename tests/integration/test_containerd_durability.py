"""Answered is there after SIGKILL; interrupted is whole or absent; a full disk is an error and no more."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.api.services.containers.v1 import containers_pb2 as containers
from longshore.api.services.containers.v1.containers_pb2_grpc import ContainersStub
from longshore.api.services.events.v1.events_pb2 import PublishRequest, SubscribeRequest
from longshore.api.services.events.v1.events_pb2_grpc import EventsStub
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.services.images.v1.images_pb2_grpc import ImagesStub
from longshore.api.services.leases.v1 import leases_pb2 as leases
from longshore.api.services.leases.v1.leases_pb2_grpc import LeasesStub
from longshore.api.services.namespaces.v1 import namespace_pb2 as namespaces
from longshore.api.services.namespaces.v1.namespace_pb2_grpc import NamespacesStub
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.containerd.metadata.store import Store
from support import soak
from support.daemon import NO_COLLECTION, Longshore

HEADERS = (("containerd-namespace", "test"),)
DIGEST = "sha256:" + "a" * 64

WRITER = """
import asyncio, sys
from pathlib import Path
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.containerd.metadata.store import Store

async def main():
    store = Store(Path(sys.argv[1]))
    async def write(number):
        await store.write(lambda t: t.execute("INSERT INTO namespaces (name) VALUES (?)", (str(number),)))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
    start = int(sys.argv[2])
    for base in range(start, start + 1_000_000, 8):
        await asyncio.gather(*(write(number) for number in range(base, base + 8)))

asyncio.run(main())
"""


def test_no_answered_write_is_lost_to_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "meta.sqlite"
    answered: list[str] = []
    for turn in range(soak.times(4, 100)):
        command = [sys.executable, "-c", WRITER, str(path), str(turn * 1_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(random.randrange(1, 200)):
                answered.append(writer.stdout.readline().strip())
            writer.send_signal(signal.SIGKILL)
            # The last line may have been cut.
            answered += [line.strip() for line in writer.stdout if line.endswith("\n")]
        store = Store(path)
        kept = store.read(
            lambda connection: {row[0] for row in connection.execute("SELECT name FROM namespaces")}
        )
        store.close()
        assert set(answered) <= kept


# -- cancelled calls ----------------------------------------------------------------------------------------


def container(id: str, spec_size: int = 2000) -> containers.Container:
    runtime = containers.Container.Runtime(name="r")
    return containers.Container(id=id, runtime=runtime, spec=AnyMessage(type_url="t", value=bytes(spec_size)))


def image(name: str) -> images.Image:
    return images.Image(name=name, target=Descriptor(media_type="m", digest=DIGEST, size=1))


class Mutations:
    """Every mutating call of the metadata services, each on an object named by a number."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._containers: Any = ContainersStub(channel)
        self._images: Any = ImagesStub(channel)
        self._leases: Any = LeasesStub(channel)
        self._namespaces: Any = NamespacesStub(channel)
        self._events: Any = EventsStub(channel)

    def all(self) -> list[Callable[[int], Any]]:
        return [
            lambda n: self._containers.Create(
                containers.CreateContainerRequest(container=container(f"c{n}")), metadata=HEADERS
            ),
            lambda n: self._containers.Update(
                containers.UpdateContainerRequest(container=container(f"c{n - 1}")), metadata=HEADERS
            ),
            lambda n: self._containers.Delete(
                containers.DeleteContainerRequest(id=f"c{n - 2}"), metadata=HEADERS
            ),
            lambda n: self._images.Create(images.CreateImageRequest(image=image(f"i{n}")), metadata=HEADERS),
            lambda n: self._images.Update(
                images.UpdateImageRequest(image=image(f"i{n - 1}")), metadata=HEADERS
            ),
            lambda n: self._images.Delete(images.DeleteImageRequest(name=f"i{n - 2}"), metadata=HEADERS),
            lambda n: self._leases.Create(leases.CreateRequest(id=f"l{n}"), metadata=HEADERS),
            lambda n: self._leases.AddResource(
                leases.AddResourceRequest(id=f"l{n - 1}", resource=leases.Resource(id="r", type="ingests")),
                metadata=HEADERS,
            ),
            lambda n: self._leases.Delete(leases.DeleteRequest(id=f"l{n - 2}"), metadata=HEADERS),
            lambda n: self._namespaces.Create(
                namespaces.CreateNamespaceRequest(namespace=namespaces.Namespace(name=f"n{n}"))
            ),
            lambda n: self._namespaces.Delete(namespaces.DeleteNamespaceRequest(name=f"n{n - 1}")),
            lambda n: self._events.Publish(
                PublishRequest(topic="/test/event", event=AnyMessage(type_url="t")), metadata=HEADERS
            ),
        ]


async def _cancelled_at_random(call: Any) -> None:
    await asyncio.sleep(random.random() * 0.006)
    call.cancel()
    try:
        await call
    except (asyncio.CancelledError, grpc.aio.AioRpcError):
        pass


async def test_a_cancelled_call_has_happened_or_has_not() -> None:
    """The journal tells of exactly the objects that are there: neither half came without the other."""
    with Longshore(config=NO_COLLECTION) as daemon:
        async with grpc.aio.insecure_channel(f"unix:{daemon.address}") as channel:
            mutations = Mutations(channel).all()
            for number in range(soak.times(25, 1000)):
                await asyncio.gather(*(_cancelled_at_random(mutate(number)) for mutate in mutations))
            await _settled(channel)
            told = await _told(channel)
            assert told["containers"] == await _containers(channel)
            assert told["images"] == await _images(channel)
            assert told["namespaces"] | {"test"} == await _namespaces(channel) | {"test"}


async def _settled(channel: grpc.aio.Channel) -> None:
    """A write that is answered now comes after all that went before."""
    stub: Any = NamespacesStub(channel)
    await stub.Create(namespaces.CreateNamespaceRequest(namespace=namespaces.Namespace(name="settled")))


async def _told(channel: grpc.aio.Channel) -> dict[str, set[str]]:
    """Which objects exist if the journal's events are all that ever happened."""
    stub: Any = EventsStub(channel)
    stream = stub.Subscribe(SubscribeRequest(), metadata=(("longshore-since-sequence", "0"),))
    head = int(dict(await stream.initial_metadata())["longshore-sequence"])
    told: dict[str, set[str]] = {"containers": set(), "images": set(), "namespaces": set(), "test": set()}
    for _ in range(head):
        envelope = await stream.read()
        _, noun, verb = envelope.topic.split("/")
        # The first field of all of these events is the name.
        name = envelope.event.value[2 : 2 + envelope.event.value[1]].decode() if envelope.event.value else ""
        if verb == "delete":
            told[noun].remove(name)
        elif verb == "create":
            assert name not in told[noun]
            told[noun].add(name)
    stream.cancel()
    return told


async def _containers(channel: grpc.aio.Channel) -> set[str]:
    stub: Any = ContainersStub(channel)
    answer = await stub.List(containers.ListContainersRequest(), metadata=HEADERS)
    return {each.id for each in answer.containers}


async def _images(channel: grpc.aio.Channel) -> set[str]:
    stub: Any = ImagesStub(channel)
    return {each.name for each in (await stub.List(images.ListImagesRequest(), metadata=HEADERS)).images}


async def _namespaces(channel: grpc.aio.Channel) -> set[str]:
    stub: Any = NamespacesStub(channel)
    return {each.name for each in (await stub.List(namespaces.ListNamespacesRequest())).namespaces}


# -- a full disk --------------------------------------------------------------------------------------------


def test_a_full_disk_fails_what_it_must_and_nothing_else(short_tmp: Path) -> None:
    disk = short_tmp / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    try:
        with Longshore(config=NO_COLLECTION, arguments=["--root", str(disk / "root")]) as daemon:
            made = asyncio.run(_fill_and_free(daemon))
            daemon.kill9()
            daemon.start()
            assert asyncio.run(_listed(daemon)) == made
    finally:
        subprocess.run(["umount", disk], check=True)


async def _fill_and_free(daemon: Longshore) -> set[str]:
    """Create until the disk is full and beyond, then delete half; the containers that must be there then."""
    async with grpc.aio.insecure_channel(f"unix:{daemon.address}") as channel:
        stub: Any = ContainersStub(channel)

        async def create(number: int) -> grpc.StatusCode:
            request = containers.CreateContainerRequest(container=container(f"c{number}", 50_000))
            try:
                await stub.Create(request, metadata=HEADERS)
            except grpc.aio.AioRpcError as error:
                assert "no space left on device" in (error.details() or ""), error
                return error.code()
            return grpc.StatusCode.OK

        outcomes: list[grpc.StatusCode] = []
        for base in range(0, 160, 8):
            outcomes += await asyncio.gather(*(create(number) for number in range(base, base + 8)))
        made = {f"c{number}" for number, code in enumerate(outcomes) if code is grpc.StatusCode.OK}
        assert set(outcomes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert await _containers(channel) == made
        for id in sorted(made)[: len(made) // 2]:
            await stub.Delete(containers.DeleteContainerRequest(id=id), metadata=HEADERS)
            made.discard(id)
        assert await _containers(channel) == made
        return made


async def _listed(daemon: Longshore) -> set[str]:
    async with grpc.aio.insecure_channel(f"unix:{daemon.address}") as channel:
        return await _containers(channel)
