"""(k) Starts: 100 containers one after the other and 8 at once; their end and removal isn't measured."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from bench.daemons import Daemon, Pair, interleaved
from bench.report import summary
from longshore.client import AsyncClient
from longshore.client.tasks import Task


async def starts(daemon: Daemon, rootfs: str, count: int, parallel: int) -> float:
    """Seconds per container until all `count` of them run."""
    async with AsyncClient(str(daemon.address), daemon.namespace) as client:
        gate = asyncio.Semaphore(parallel)

        async def one(number: int) -> Task:
            async with gate:
                container = await client.containers.create(
                    f"start-{number}", rootfs=rootfs, args=("/bin/sleep", "600")
                )
                task = await container.create_task()
                await task.start()
                return task

        started = time.perf_counter()
        tasks = await asyncio.gather(*(one(number) for number in range(count)))
        elapsed = time.perf_counter() - started

        async def end(task: Task) -> None:
            async with gate:
                await task.destroy()
                await (await client.containers.get(task.container)).delete()

        await asyncio.gather(*(end(task) for task in tasks))
    return elapsed / count


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    rootfs, count = str(pair.rootfs), options.containers
    results: dict[str, Any] = {}
    for parallel in (1, 8):
        times = interleaved(
            pair,
            max(2, options.rounds // 4),
            lambda daemon, parallel=parallel: [asyncio.run(starts(daemon, rootfs, count, parallel))],  # type: ignore[misc]
        )
        results[f"{count} starts, {parallel} at once, each"] = summary(times)
    return results
