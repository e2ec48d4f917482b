"""A container's life through the API, call by call, by one client of ours on both daemons.

Containers.Create, Tasks.Create, Start (with a Wait pending), the exit, Tasks.Delete,
Containers.Delete, on a root file system that is a directory: what a
container costs without images and without a command line tool.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.daemons import Daemon, Pair
from bench.measure import Turn, take_turns
from bench.report import Figures, measures
from longshore.client import AsyncClient

PARALLEL = 4
LIFE = "one life: all of its calls"
TOGETHER = f"one life of {PARALLEL} at a time"


@contextmanager
def _took(turn: Turn | None, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    if turn is not None:
        turn.took(name, time.perf_counter() - started)


async def life(client: AsyncClient, rootfs: str, number: int, turn: Turn | None = None) -> None:
    """With a turn each call is one of its measures."""
    with _took(turn, LIFE):
        with _took(turn, "Containers.Create"):
            container = await client.containers.create(f"life-{number}", rootfs=rootfs, args=("/bin/true",))
        with _took(turn, "Tasks.Create"):
            task = await container.create_task()
        with _took(turn, "Tasks.Start"):
            await task.start()
        with _took(turn, "Tasks.Wait, from the start's answer"):
            status = await task.wait()
        with _took(turn, "Tasks.Delete"):
            await task.delete()
        with _took(turn, "Containers.Delete"):
            await container.delete()
    if status.code != 0:
        raise RuntimeError(f"exit status {status.code}")


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    rootfs, count = str(pair.rootfs), options.per_round * 2

    async def one_by_one(daemon: Daemon, turn: Turn) -> None:
        async with AsyncClient(str(daemon.address), daemon.namespace) as client:
            await life(client, rootfs, 0)  # the connection stands
            with turn.counted(LIFE, count):
                for number in range(count):
                    await life(client, rootfs, number, turn)

    async def at_once(daemon: Daemon, turn: Turn) -> None:
        async with AsyncClient(str(daemon.address), daemon.namespace) as client:
            gate = asyncio.Semaphore(PARALLEL)

            async def gated(number: int) -> None:
                async with gate:
                    await life(client, rootfs, number)

            with turn.timed(TOGETHER, count):
                await asyncio.gather(*(gated(number) for number in range(count)))

    found = take_turns(pair.sides, options.rounds, one_by_one)
    found |= take_turns(pair.sides, max(2, options.rounds // 2), at_once)
    for daemon in pair.sides:
        daemon.nothing_runs()
    found = {name: found.pop(name) for name in (LIFE, TOGETHER)} | found
    return measures(found, aims={LIFE: 0.25})
