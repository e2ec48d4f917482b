"""What records cost: 10, 100, 1,000 and 10,000 containers, each with an image and its blob.

At every size: List and filtered List, Get, a collection that finds all of it in use, one that removes as many
blobs more, a container's life beside the records, and the daemon's start on them, with its memory. Daemons of
their own on a tmpfs, so that nothing else is in their databases and neither side waits for a disk.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from bench.cold import Starter, starters, temporary
from bench.daemons import Pair
from bench.lifecycle import life
from bench.measure import Found, Turn, order
from bench.report import Figures
from bench.report import measure as figures
from longshore.api.services.containers.v1 import containers_pb2 as containers
from longshore.api.services.content.v1 import content_pb2 as content
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.services.leases.v1 import leases_pb2 as leases
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import AsyncClient

SIZES = (10, 100, 1_000, 10_000)
LIMITS = [("grpc.max_receive_message_length", 256 << 20)]
AT_ONCE = 32
LISTS = "containers, List"


class Calls:
    """Requests and answers as bytes: what a client does with them is not the daemon's cost."""

    def __init__(self, address: Path, namespace: str) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{address}", options=LIMITS)
        self._headers = (("containerd-namespace", namespace),)
        self._lease: tuple[tuple[str, str], ...] = ()

    async def __aenter__(self) -> Calls:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def leased(self, name: str) -> None:
        """What is made from now on belongs to this lease; "" for none."""
        self._lease = (("containerd-lease", name),) if name else ()

    async def unary(self, method: str, request: bytes = b"") -> bytes:
        call: Any = self._channel.unary_unary(f"/containerd.services.{method}", None, None)
        answer: bytes = await call(request, metadata=(*self._headers, *self._lease))
        return answer

    async def stream(self, method: str, request: bytes = b"") -> int:
        """The number of messages that come."""
        call: Any = self._channel.unary_stream(f"/containerd.services.{method}", None, None)
        return len([message async for message in call(request, metadata=self._headers)])

    async def blob(self, data: bytes) -> None:
        """A blob by a single message."""
        digest = digest_of(data)
        request = content.WriteContentRequest(
            action=content.COMMIT, ref=digest, data=data, total=len(data), expected=digest
        )
        call: Any = self._channel.stream_stream("/containerd.services.content.v1.Content/Write", None, None)
        headers = (*self._headers, *self._lease)
        answers = [answer async for answer in call(iter([request.SerializeToString()]), metadata=headers)]
        if not answers:
            raise RuntimeError("a blob wasn't stored")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def container(number: int) -> bytes:
    record = containers.Container(
        id=f"c{number:05}",
        labels={"number": str(number)},
        image=f"docker.io/library/i{number:05}:latest",
        runtime=containers.Container.Runtime(name="io.containerd.runc.v2"),
    )
    record.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    record.spec.value = b"{" + b" " * 1000 + b"}"
    return containers.CreateContainerRequest(container=record).SerializeToString()


def image(number: int) -> bytes:
    data = b"image %d" % number
    target = Descriptor(media_type="m", digest=digest_of(data), size=len(data))
    record = images.Image(
        name=f"docker.io/library/i{number:05}:latest", target=target, labels={"n": str(number)}
    )
    return images.CreateImageRequest(image=record).SerializeToString()


async def at_once(numbers: range, work: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    """A few at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def gated(number: int) -> None:
        async with gate:
            await work(number)

    await asyncio.gather(*(gated(number) for number in numbers))


async def lease(calls: Calls, name: str) -> None:
    await calls.unary("leases.v1.Leases/Create", leases.CreateRequest(id=name).SerializeToString())
    calls.leased(name)


async def collect(calls: Calls, name: str) -> None:
    """Give a lease up, and wait for the collection that follows."""
    calls.leased("")
    await calls.unary("leases.v1.Leases/Delete", leases.DeleteRequest(id=name, sync=True).SerializeToString())


async def fill(calls: Calls, already: int, wanted: int) -> None:
    async def one(number: int) -> None:
        await calls.blob(b"image %d" % number)
        await calls.unary("containers.v1.Containers/Create", container(number))
        await calls.unary("images.v1.Images/Create", image(number))

    await lease(calls, "fill")
    await at_once(range(already, wanted), one)
    await collect(calls, "fill")


async def blobs(calls: Calls) -> int:
    """How many there are: a message of List holds a hundred."""
    request = content.ListContentRequest().SerializeToString()
    call: Any = calls._channel.unary_stream(
        "/containerd.services.content.v1.Content/List", None, content.ListContentResponse.FromString
    )
    return sum([len(answer.info) async for answer in call(request, metadata=calls._headers)])


async def ask(calls: Calls, size: int, turn: Turn, repeats: int) -> None:
    """Seconds of each call with `size` records; RuntimeError when there are others."""
    filtered = containers.ListContainersRequest(filters=["labels.number==7"]).SerializeToString()
    one = containers.GetContainerRequest(id="c00007").SerializeToString()
    if await calls.stream("containers.v1.Containers/ListStream") != size or await blobs(calls) != size:
        raise RuntimeError(f"there are other records than {size} containers and blobs")
    for name, method, request in (
        (LISTS, "containers.v1.Containers/List", b""),
        ("containers, filtered List", "containers.v1.Containers/List", filtered),
        ("containers, Get", "containers.v1.Containers/Get", one),
        ("images, List", "images.v1.Images/List", b""),
    ):
        await calls.unary(method, request)  # warm
        for _ in range(repeats * (4 if request is one else 1)):
            with turn.timed(name):
                await calls.unary(method, request)


async def collected(calls: Calls, size: int, turn: Turn, repeats: int) -> None:
    for _ in range(repeats):
        await lease(calls, "nothing")
        with turn.timed("GC, all in use"):
            await collect(calls, "nothing")
    for batch in range(3 if size <= 1_000 else 2):
        await lease(calls, "garbage")
        await at_once(range(size), lambda number, batch=batch: calls.blob(b"garbage %d %d" % (batch, number)))  # type: ignore[misc]
        with turn.timed("GC, removes as many blobs"):
            await collect(calls, "garbage")
    if await blobs(calls) != size:
        raise RuntimeError(f"{await blobs(calls)} blobs are left, not {size}")


async def lives(side: Starter, address: Path, rootfs: str, turn: Turn, repeats: int) -> None:
    async with AsyncClient(str(address), side.namespace) as client:
        await life(client, rootfs, 0)
        for number in range(repeats):
            with turn.timed("a container's life"):
                await life(client, rootfs, number)


def one_size(
    side: Starter, folder: Path, already: int, size: int, rootfs: str, turn: Turn, repeats: int
) -> None:
    """Fill up to `size` and measure everything."""
    address = folder / "c.sock"

    async def calls() -> None:
        async with Calls(address, side.namespace) as asked:
            await fill(asked, already, size)
            await ask(asked, size, turn, repeats)
            await collected(asked, size, turn, repeats)
        await lives(side, address, rootfs, turn, repeats * 2)

    with side.running(folder):
        asyncio.run(calls())
    for _ in range(3):
        with turn.counted("daemon start"), side.running(folder) as elapsed:
            turn.took("daemon start", elapsed)
            turn.took("daemon: private memory", side.weigh())


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    """`pair` rests meanwhile."""
    sizes = SIZES[:3] if options.quick else SIZES
    results: dict[str, Figures] = {}
    with ExitStack() as stack:
        sides = stack.enter_context(starters())
        folders = {side.name: stack.enter_context(temporary()) for side in sides}
        for step, (already, size) in enumerate(zip((0, *sizes), sizes, strict=False)):
            found: Found = {}
            began = time.perf_counter()
            for side in list(order(sides, 2))[2 * (step % 2) :][:2]:
                turn = Turn(side, found)
                one_size(side, folders[side.name], already, size, str(pair.rootfs), turn, options.repeats)
            options.say(f"records: {size:,} took {time.perf_counter() - began:.0f} s")
            for name, taken in found.items():
                unit = "MiB" if "memory" in name else "ms"
                results[f"{name}, {size:,} records each"] = figures(taken, unit=unit, series=name, size=size)
    return dict(sorted(results.items(), key=lambda item: (item[1]["series"], item[1]["size"])))
