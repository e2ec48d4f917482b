"""(m) With 10, 100, 1,000 and 10,000 containers and as many images: List, filtered List, Get, and the daemon's start.

Daemons of their own, one after the other, so that nothing else is in their databases.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc

from bench.cold import running
from bench.daemons import Pair
from bench.report import summary
from longshore.api.services.containers.v1 import containers_pb2 as containers
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.types.descriptor_pb2 import Descriptor

SIZES = (10, 100, 1_000, 10_000)
HEADERS = (("containerd-namespace", "records"),)
_SERVICES = "/containerd.services"
_LIMITS = [("grpc.max_receive_message_length", 256 << 20)]

Measures = dict[str, list[float]]


class Calls:
    """Requests and answers as bytes: what a client does with them is not the daemon's cost."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def unary(self, method: str, request: bytes = b"") -> bytes:
        call: Any = self._channel.unary_unary(f"{_SERVICES}.{method}", None, None)
        answer: bytes = await call(request, metadata=HEADERS)
        return answer

    async def stream(self, method: str, request: bytes = b"") -> int:
        call: Any = self._channel.unary_stream(f"{_SERVICES}.{method}", None, None)
        found = 0
        async for _ in call(request, metadata=HEADERS):
            found += 1
        return found


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
    target = Descriptor(media_type="m", digest=f"sha256:{number:064x}", size=1)
    record = images.Image(
        name=f"docker.io/library/i{number:05}:latest", target=target, labels={"n": str(number)}
    )
    return images.CreateImageRequest(image=record).SerializeToString()


async def fill(calls: Calls, already: int, wanted: int) -> None:
    gate = asyncio.Semaphore(32)

    async def one(number: int) -> None:
        async with gate:
            await calls.unary("containers.v1.Containers/Create", container(number))
            await calls.unary("images.v1.Images/Create", image(number))

    await asyncio.gather(*(one(number) for number in range(already, wanted)))


async def timed(work: Callable[[], Coroutine[Any, Any, Any]], repeats: int) -> list[float]:
    times: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        await work()
        times.append(time.perf_counter() - started)
    return times


async def asked(folder: Path, already: int, size: int, repeats: int) -> Measures:
    """Fill up to `size`, then ask; seconds of each call."""
    filtered = containers.ListContainersRequest(filters=["labels.number==7"]).SerializeToString()
    one = containers.GetContainerRequest(id="c00007").SerializeToString()
    async with grpc.aio.insecure_channel(f"unix:{folder / 'c.sock'}", options=_LIMITS) as channel:
        calls = Calls(channel)
        await fill(calls, already, size)
        if await calls.stream("containers.v1.Containers/ListStream") != size:
            raise RuntimeError("not all containers are listed")
        return {
            f"containers, ListStream of {size:,}": await timed(
                lambda: calls.stream("containers.v1.Containers/ListStream"), repeats
            ),
            f"containers, filtered List of {size:,}": await timed(
                lambda: calls.unary("containers.v1.Containers/List", filtered), repeats
            ),
            f"containers, Get among {size:,}": await timed(
                lambda: calls.unary("containers.v1.Containers/Get", one), repeats * 4
            ),
            f"images, List of {size:,}": await timed(lambda: calls.unary("images.v1.Images/List"), repeats),
        }


def one_daemon(name: str, sizes: tuple[int, ...], repeats: int) -> tuple[Measures, int]:
    """All measures of a daemon, and its private bytes with the most records."""
    folder, found = Path(tempfile.mkdtemp(prefix="ls-records-", dir="/run")), Measures()
    try:
        already = 0
        for size in sizes:
            with running(name, folder):
                found |= asyncio.run(asked(folder, already, size, repeats))
            starts: list[float] = []
            for _ in range(3):
                with running(name, folder) as (elapsed, memory):
                    starts.append(elapsed)
            found[f"daemon start with {2 * size:,} records"] = starts
            already = size
        return found, memory
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    sizes = SIZES[:3] if options.quick else SIZES
    repeats = max(3, options.per_round)
    (ours, our_memory), (go, go_memory) = (one_daemon(name, sizes, repeats) for name in ("ours", "go"))
    results: dict[str, Any] = {name: summary({"ours": ours[name], "go": go[name]}) for name in sorted(ours)}
    results[f"daemon: private memory, {2 * sizes[-1]:,} records"] = {
        "unit": "MiB",
        "ours": {"mean": our_memory / (1 << 20)},
        "go": {"mean": go_memory / (1 << 20)},
        "ratio": {"mean": our_memory / go_memory},
    }
    return results
