"""(a) A container's life through the API, by one client of ours on both daemons.

Containers.Create, Tasks.Create, Wait (pending), Start, the exit, Tasks.Delete,
Containers.Delete, on a root file system that is a directory: what a
container costs without images and without a command line tool.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from bench.daemons import Daemon, Pair, interleaved
from bench.report import summary
from longshore.client import AsyncClient

PARALLEL = 4


async def one(client: AsyncClient, rootfs: str, number: int) -> float:
    started = time.perf_counter()
    container = await client.containers.create(f"life-{number}", rootfs=rootfs, args=("/bin/true",))
    task = await container.create_task()
    await task.start()
    status = await task.wait()
    await task.delete()
    await container.delete()
    if status.code != 0:
        raise RuntimeError(f"exit status {status.code}")
    return time.perf_counter() - started


async def lives(daemon: Daemon, rootfs: str, count: int) -> list[float]:
    async with AsyncClient(str(daemon.address), daemon.namespace) as client:
        return [await one(client, rootfs, number) for number in range(count)]


async def at_once(daemon: Daemon, rootfs: str, count: int) -> float:
    """Seconds for `count` lives, a few at a time."""
    async with AsyncClient(str(daemon.address), daemon.namespace) as client:
        gate = asyncio.Semaphore(PARALLEL)

        async def gated(number: int) -> None:
            async with gate:
                await one(client, rootfs, number)

        started = time.perf_counter()
        await asyncio.gather(*(gated(number) for number in range(count)))
        return time.perf_counter() - started


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    rootfs = str(pair.rootfs)
    for daemon in (pair.ours, pair.go):
        asyncio.run(lives(daemon, rootfs, 2))  # warm
    times = interleaved(pair, options.rounds, lambda d: asyncio.run(lives(d, rootfs, options.per_round)))
    count = options.per_round * PARALLEL
    parallel = interleaved(
        pair, max(1, options.rounds // 3), lambda d: [asyncio.run(at_once(d, rootfs, count)) / count]
    )
    return {
        "one at a time": summary(times),
        f"{PARALLEL} at a time, each": summary(parallel),
    }
