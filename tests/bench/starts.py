"""Many containers at once: 100 starts one after the other and 8 at a time, and what stands there then.

The time is that of the starts; their end and removal isn't measured. While all run: PSS, private memory and
threads of the daemon (ours with its zygote) and of the shims. `shims` is the same with 1,000 containers, and
how a start grows with the number of those that run already: not in a default run, since it takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.daemons import Daemon, Pair
from bench.measure import Memory, Turn, take_turns
from bench.report import Figures, measures
from bench.report import measure as figures
from longshore.client import AsyncClient
from longshore.client.tasks import Task

EXECS = 10
MEMORY = {"PSS": "MiB", "private": "MiB", "threads": ""}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def start(client: AsyncClient, rootfs: str, number: int) -> Task:
    container = await client.containers.create(f"start-{number}", rootfs=rootfs, args=("/bin/sleep", "6000"))
    task = await container.create_task()
    await task.start()
    return task


async def started(client: AsyncClient, rootfs: str, numbers: Sequence[int], parallel: int) -> list[Task]:
    gate = asyncio.Semaphore(parallel)

    async def gated(number: int) -> Task:
        async with gate:
            return await start(client, rootfs, number)

    return list(await asyncio.gather(*(gated(number) for number in numbers)))


async def ended(client: AsyncClient, tasks: Sequence[Task]) -> None:
    gate = asyncio.Semaphore(8)

    async def end(task: Task) -> None:
        async with gate:
            await task.destroy()
            await (await client.containers.get(task.container)).delete()

    await asyncio.gather(*(end(task) for task in tasks))


def weigh(daemon: Daemon, tasks: Sequence[Task], turn: Turn, what: str) -> None:
    """PSS, private bytes and threads of each shim and of the daemon. RuntimeError unless every container runs."""
    shims = {parent(task.pid) for task in tasks}
    if len(shims) != len(tasks):
        raise RuntimeError(f"{daemon.name}: {len(shims)} shims of {len(tasks)} containers")
    for shim in shims:
        for name, value in measured([shim]).items():
            turn.took(f"shim, {what}: {name}", value)
    rest = set(daemon.account.processes()) - shims
    for name, value in measured(rest).items():
        turn.took(f"daemon, {what}: {name}", value)
    if zygote := rest - {daemon.process.pid}:
        for name, value in measured(zygote).items():
            turn.beside(f"daemon, {what}: {name}", "our zygote's part", value)


def measured(pids: Iterable[int]) -> dict[str, int]:
    """Of all together, by the names of MEMORY."""
    found = [Memory.of(pid) for pid in pids]
    sums = (sum(getattr(one, name) for one in found) for name in ("pss", "private", "threads"))
    return dict(zip(MEMORY, sums, strict=True))


def units(what: str) -> dict[str, str]:
    return {f"{who}, {what}: {name}": unit for who in ("shim", "daemon") for name, unit in MEMORY.items()}


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    rootfs, count = str(pair.rootfs), options.containers
    what = f"{count} running"
    one, eight = (f"{count} starts, {parallel} at once, each" for parallel in (1, 8))

    async def work(daemon: Daemon, turn: Turn) -> None:
        async with AsyncClient(str(daemon.address), daemon.namespace) as client:
            for name, parallel in ((one, 1), (eight, 8)):
                with turn.timed(name, count):
                    tasks = await started(client, rootfs, range(count), parallel)
                if parallel == 8:
                    weigh(daemon, tasks, turn, what)
                await ended(client, tasks)

    found = take_turns(pair.sides, options.few, work, within=90)
    return measures(found, aims={one: 0.25, eight: 0.25}, units=units(what))


def memory(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    """Shims after work: an interpreter grows with its first."""
    count = max(4, options.containers * 3 // 10)
    what = f"{count} running, {EXECS} execs in each"

    async def work(daemon: Daemon, turn: Turn) -> None:
        async with AsyncClient(str(daemon.address), daemon.namespace) as client:
            tasks = await started(client, str(pair.rootfs), range(count), 2)
            gate = asyncio.Semaphore(2)

            async def execs(task: Task) -> None:
                async with gate:
                    for _ in range(EXECS):
                        process = await task.exec(("/bin/true",))
                        await process.start()
                        if (await process.wait()).code != 0:
                            raise RuntimeError(f"{daemon.name}: exec in {task.container} failed")
                        await process.delete()

            await asyncio.gather(*(execs(task) for task in tasks))
            weigh(daemon, tasks, turn, what)
            await ended(client, tasks)

    found = take_turns(pair.sides, 1, work)
    return measures(found, aims={f"shim, {what}: PSS": 0.7}, units=units(what))


def shims(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    """1,000 at once, 8 starting at a time."""
    sizes = (10, 30, 100) if options.quick else (10, 100, 1000)
    rootfs, series, what = str(pair.rootfs), "start beside running ones", f"{sizes[-1]:,} running"

    async def work(daemon: Daemon, turn: Turn) -> None:
        async with AsyncClient(str(daemon.address), daemon.namespace) as client:
            tasks: list[Task] = []
            try:
                for size in sizes:
                    with turn.counted(f"{size:,} running: 8 starts at once, each", size - len(tasks)):
                        tasks += await started(client, rootfs, range(len(tasks), size), 8)
                    eight: list[float] = []
                    for _ in range(5):
                        begun = time.perf_counter()
                        more = await started(client, rootfs, range(size, size + 8), 8)
                        eight.append((time.perf_counter() - begun) / 8)
                        await ended(client, more)
                    turn.took(f"{size:,} running: 8 starts at once, each", statistics.median(eight))
                weigh(daemon, tasks, turn, what)
            finally:
                await ended(client, tasks)

    found = take_turns(pair.sides, 1, work)
    results = measures(found, units=units(what))
    for size in sizes:
        name = f"{size:,} running: 8 starts at once, each"
        results[name] = figures(found[name], series=series, size=size)
    return results
