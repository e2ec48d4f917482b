"""Calls without containers: Version, List of 1, 1,000 and 10,000, an event with 0, 1, 10 subscribers.

By h2load (`bench.h2load`), which costs next to nothing itself, and by a grpcio client with raw stubs: bytes in
and out, since its decoding is the same for both.
"""

from __future__ import annotations

import argparse
import asyncio

from bench import h2load, private
from bench.daemons import Daemon, Pair
from bench.measure import Found, Turn, take_turns
from bench.records import Calls, at_once, container
from bench.report import Figures, measures
from longshore.api.events.namespace_pb2 import NamespaceCreate
from longshore.api.services.containers.v1 import containers_pb2 as containers
from longshore.api.services.namespaces.v1 import namespace_pb2 as namespaces
from longshore.client import AsyncClient
from support import goparts

SIZES = (1, 1_000, 10_000)
SUBSCRIBERS = (0, 1, 10)
PARALLEL = 8
EVENTS = 200
VERSION = "version.v1.Version/Version"
LIST = "containers.v1.Containers/List"
STREAM = "containers.v1.Containers/ListStream"


def _space(daemon: Daemon) -> str:
    return private.name(daemon.name, "-lists")


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    results = versions(pair, options) | events(pair, options)
    already = 0
    for size in SIZES[:2] if options.quick else SIZES:
        for daemon in pair.sides:
            asyncio.run(fill(daemon, already, size))
        already = size
        results |= lists(pair, size, options)
    for daemon in pair.sides:
        asyncio.run(empty(daemon, already))
    return results


def _h2load(options: argparse.Namespace) -> bool:
    try:
        goparts.path("h2load")
    except goparts.Missing as error:
        options.say(f"calls: without h2load: {error}")
        return False
    return True


def versions(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    count = options.per_round * 200
    one, eight, grpcio = (
        f"Version, {how}"
        for how in ("h2load, one at a time", f"h2load, {PARALLEL} at once", f"grpcio, {PARALLEL} at once")
    )

    async def by_grpcio(daemon: Daemon, turn: Turn) -> None:
        async with Calls(daemon.address, daemon.namespace) as calls:
            length = len(await calls.unary(VERSION))

            async def some() -> None:
                for _ in range(count // PARALLEL):
                    if len(await calls.unary(VERSION)) != length:
                        raise RuntimeError(f"{daemon.name}: another answer")

            with turn.timed(grpcio, count // PARALLEL * PARALLEL):
                await asyncio.gather(*(some() for _ in range(PARALLEL)))

    def by_h2load(daemon: Daemon, turn: Turn) -> None:
        length = asyncio.run(_length(daemon, VERSION))
        for name, streams in ((one, 1), (eight, PARALLEL)):
            with turn.counted(name, count):
                load = _load(daemon, VERSION, daemon.namespace, count, streams, length)
            if streams == 1:
                for seconds in load.calls:
                    turn.took(name, seconds)
            else:
                turn.took(name, load.elapsed / count)

    found = take_turns(pair.sides, options.rounds, by_grpcio)
    if _h2load(options):
        found |= take_turns(pair.sides, options.rounds, by_h2load)
    # Calls per second: 0.3 of Go's.
    return measures(found, aims={eight: 1 / 0.3}, units=dict.fromkeys((one, eight, grpcio), "us"))


async def _length(daemon: Daemon, method: str, namespace: str = "") -> int:
    async with Calls(daemon.address, namespace or daemon.namespace) as calls:
        return len(await calls.unary(method))


def _load(daemon: Daemon, method: str, namespace: str, count: int, streams: int, answer: int) -> h2load.Load:
    path = f"/containerd.services.{method}"
    return h2load.load(daemon.address, path, namespace=namespace, count=count, streams=streams, answer=answer)


def lists(pair: Pair, size: int, options: argparse.Namespace) -> dict[str, Figures]:
    once, stream, fast = (
        f"{what} of {size:,}" for what in ("List, grpcio,", "ListStream, grpcio,", "List, h2load,")
    )
    rounds, count = max(2, options.rounds // 2), max(4, min(200, 20_000 // size))
    lengths = {daemon.name: asyncio.run(_length(daemon, LIST, _space(daemon))) for daemon in pair.sides}

    async def by_grpcio(daemon: Daemon, turn: Turn) -> None:
        async with Calls(daemon.address, _space(daemon)) as calls:
            for _ in range(3):
                with turn.timed(once):
                    answer = await calls.unary(LIST)
                with turn.timed(stream):
                    streamed = await calls.stream(STREAM)
                listed = len(containers.ListContainersResponse.FromString(answer).containers)
                if (listed, streamed) != (size, size):
                    raise RuntimeError(f"{daemon.name}: {listed} and {streamed} of {size} containers")

    def by_h2load(daemon: Daemon, turn: Turn) -> None:
        with turn.counted(fast, count):
            load = _load(daemon, LIST, _space(daemon), count, 1, lengths[daemon.name])
        for seconds in load.calls:
            turn.took(fast, seconds)

    found = take_turns(pair.sides, rounds, by_grpcio)
    if _h2load(options):
        found |= take_turns(pair.sides, rounds, by_h2load)
    aims = {once: 0.1, fast: 0.1} if size == 1_000 else {}
    return measures(found, aims=aims)


async def fill(daemon: Daemon, already: int, wanted: int) -> None:
    async with Calls(daemon.address, _space(daemon)) as calls:
        await at_once(
            range(already, wanted),
            lambda number: calls.unary("containers.v1.Containers/Create", container(number)),
        )


async def empty(daemon: Daemon, count: int) -> None:
    async with Calls(daemon.address, _space(daemon)) as calls:

        async def delete(number: int) -> None:
            request = containers.DeleteContainerRequest(id=f"c{number:05}")
            await calls.unary("containers.v1.Containers/Delete", request.SerializeToString())

        await at_once(range(count), delete)
        request = namespaces.DeleteNamespaceRequest(name=_space(daemon))
        await calls.unary("namespaces.v1.Namespaces/Delete", request.SerializeToString())


def events(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    found: Found = {}
    for subscribers in SUBSCRIBERS:
        name = f"Events.Publish, {subscribers} subscribers, until all have it"

        async def work(daemon: Daemon, turn: Turn, name: str = name, count: int = subscribers) -> None:
            await published(daemon, turn, name, count)

        found |= take_turns(pair.sides, max(2, options.rounds // 2), work)
    return measures(found, units=dict.fromkeys(found, "us"))


async def published(daemon: Daemon, turn: Turn, name: str, subscribers: int) -> None:
    async with AsyncClient(str(daemon.address), daemon.namespace) as client:
        ready = [asyncio.Event() for _ in range(subscribers)]

        async def subscribe(number: int) -> None:
            seen = 0
            async with await client.events.subscribe('topic~="/bench/"') as stream:
                async for event in stream:
                    ready[number].set()
                    seen += event.topic == "/bench/event"
                    if seen == EVENTS:
                        return

        listening = [asyncio.create_task(subscribe(number)) for number in range(subscribers)]
        message = NamespaceCreate(name="bench")
        # Go's daemon doesn't tell when a subscription stands.
        while not all(event.is_set() for event in ready):
            await client.events.publish("/bench/probe", message)
            await asyncio.sleep(0.01)
        with turn.timed(name, EVENTS):
            for _ in range(EVENTS):
                await client.events.publish("/bench/event", message)
            await asyncio.wait_for(asyncio.gather(*listening), 60)
