"""(h) Calls and lists: Version per second, List of 1, 1,000 and 10,000 containers, an event with 0, 1, 10 subscribers.

Raw stubs, bytes in and out where the answer isn't looked at: the client's own
decoding is the same for both and is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from bench.daemons import Daemon, Pair
from bench.report import summary
from longshore.api.events.namespace_pb2 import NamespaceCreate
from longshore.api.services.containers.v1 import containers_pb2, containers_pb2_grpc
from longshore.client import AsyncClient

SIZES = (1, 1_000, 10_000)
SUBSCRIBERS = (0, 1, 10)
PARALLEL = 8
LIMITS = [("grpc.max_receive_message_length", 256 << 20)]


def _raw(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)


async def versions(daemon: Daemon, count: int) -> list[float]:
    """Seconds per call, `PARALLEL` at a time on one connection."""
    async with grpc.aio.insecure_channel(f"unix:{daemon.address}") as channel:
        call = _raw(channel, "/containerd.services.version.v1.Version/Version")

        async def some() -> None:
            for _ in range(count // PARALLEL):
                await call(b"")

        await call(b"")
        started = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(PARALLEL)))
        return [(time.perf_counter() - started) / count]


async def fill(daemon: Daemon, already: int, wanted: int) -> None:
    async with grpc.aio.insecure_channel(f"unix:{daemon.address}") as channel:
        stub = containers_pb2_grpc.ContainersStub(channel)
        gate = asyncio.Semaphore(32)

        async def one(number: int) -> None:
            container = containers_pb2.Container(
                id=f"list-{number:05}",
                labels={"number": str(number)},
                image="docker.io/library/busybox:latest",
                runtime=containers_pb2.Container.Runtime(name="io.containerd.runc.v2"),
            )
            container.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
            container.spec.value = b"{" + b" " * 1000 + b"}"
            async with gate:
                await stub.Create(
                    containers_pb2.CreateContainerRequest(container=container), metadata=_header(daemon)
                )

        await asyncio.gather(*(one(number) for number in range(already, wanted)))


def _header(daemon: Daemon) -> tuple[tuple[str, str], ...]:
    return (("containerd-namespace", f"{daemon.namespace}-lists"),)


async def listed(daemon: Daemon, count: int, repeats: int) -> list[float]:
    """Seconds of each List; the streaming one, since 10,000 don't fit into one message."""
    method = "/containerd.services.containers.v1.Containers/ListStream"
    async with grpc.aio.insecure_channel(f"unix:{daemon.address}", options=LIMITS) as channel:
        call = channel.unary_stream(method, request_serializer=bytes, response_deserializer=bytes)
        times: list[float] = []
        for _ in range(repeats):
            started = time.perf_counter()
            found = 0
            async for _message in call(b"", metadata=_header(daemon)):
                found += 1
            times.append(time.perf_counter() - started)
            if found != count:
                raise RuntimeError(f"{daemon.name}: {found} of {count} containers were listed")
        return times


async def unary_list(daemon: Daemon, repeats: int) -> list[float]:
    async with grpc.aio.insecure_channel(f"unix:{daemon.address}", options=LIMITS) as channel:
        call = _raw(channel, "/containerd.services.containers.v1.Containers/List")
        times: list[float] = []
        for _ in range(repeats):
            started = time.perf_counter()
            await call(b"", metadata=_header(daemon))
            times.append(time.perf_counter() - started)
        return times


async def empty(daemon: Daemon, count: int) -> None:
    async with AsyncClient(str(daemon.address), f"{daemon.namespace}-lists") as client:
        stub = containers_pb2_grpc.ContainersStub(client.connection.channel)
        gate = asyncio.Semaphore(32)

        async def one(number: int) -> None:
            async with gate:
                await stub.Delete(
                    containers_pb2.DeleteContainerRequest(id=f"list-{number:05}"), metadata=_header(daemon)
                )

        await asyncio.gather(*(one(number) for number in range(count)))
        await client.namespaces.delete(f"{daemon.namespace}-lists")


async def published(daemon: Daemon, subscribers: int, count: int) -> list[float]:
    """Seconds per event until every subscriber has all of them."""
    async with AsyncClient(str(daemon.address), daemon.namespace) as client:
        ready = [asyncio.Event() for _ in range(subscribers)]

        async def subscribe(number: int) -> None:
            seen = 0
            async with await client.events.subscribe('topic~="/bench/"') as events:
                async for event in events:
                    ready[number].set()
                    seen += event.topic == "/bench/event"
                    if seen == count:
                        return

        listening = [asyncio.create_task(subscribe(number)) for number in range(subscribers)]
        message = NamespaceCreate(name="bench")
        while not all(
            event.is_set() for event in ready
        ):  # Go's daemon doesn't tell when a subscription stands
            await client.events.publish("/bench/probe", message)
            await asyncio.sleep(0.01)
        started = time.perf_counter()
        for _ in range(count):
            await client.events.publish("/bench/event", message)
        await asyncio.gather(*listening)
        return [(time.perf_counter() - started) / count]


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    results[f"Version, {PARALLEL} at a time"] = summary(
        _turns(pair, options.rounds, lambda daemon: versions(daemon, 800))
    )
    for subscribers in SUBSCRIBERS:
        results[f"Events.Publish, {subscribers} subscribers"] = summary(
            _turns(pair, max(2, options.rounds // 2), lambda daemon, n=subscribers: published(daemon, n, 200))
        )
    already = 0
    for size in SIZES:
        for daemon in (pair.ours, pair.go):
            asyncio.run(fill(daemon, already, size))
        already = size
        rounds = max(2, options.rounds // 2)
        if size <= 1_000:
            results[f"Containers.List of {size:,}"] = summary(
                _turns(pair, rounds, lambda daemon: unary_list(daemon, 3))
            )
        results[f"Containers.ListStream of {size:,}"] = summary(
            _turns(pair, rounds, lambda daemon, size=size: listed(daemon, size, 2))
        )
    for daemon in (pair.ours, pair.go):
        asyncio.run(empty(daemon, already))
    return results


def _turns(
    pair: Pair, rounds: int, work: Callable[..., Coroutine[Any, Any, list[float]]]
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"ours": [], "go": []}
    for daemon in pair.turns(rounds):
        times[daemon.name] += asyncio.run(work(daemon))
    return times
