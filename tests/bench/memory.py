"""(c) What a shim takes: PSS (its own memory and its share of what is shared) with many containers.

Each container sleeps; a number of execs has run in it, because the memory of
an interpreter grows with its first work. The daemons take turns as a whole,
so that neither's pages are shared with the other's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from pathlib import Path
from typing import Any

from bench.daemons import Daemon, Pair
from longshore.client import AsyncClient
from longshore.client.tasks import Task

PARALLEL = 2


def pss(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no Pss of {pid}")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def start(client: AsyncClient, rootfs: str, number: int, execs: int) -> Task:
    container = await client.containers.create(f"mem-{number}", rootfs=rootfs, args=("/bin/sleep", "3600"))
    task = await container.create_task()
    await task.start()
    for _ in range(execs):
        process = await task.exec(("/bin/true",))
        await process.start()
        await process.wait()
        await process.delete()
    return task


async def shims(daemon: Daemon, rootfs: str, containers: int, execs: int) -> dict[str, Any]:
    async with AsyncClient(str(daemon.address), daemon.namespace) as client:
        gate = asyncio.Semaphore(PARALLEL)

        async def gated(number: int) -> Task:
            async with gate:
                return await start(client, rootfs, number, execs)

        tasks = await asyncio.gather(*(gated(number) for number in range(containers)))
        found = {parent(task.pid) for task in tasks}
        sizes = [pss(pid) for pid in found]
        daemon_size = pss(daemon.process.pid)

        async def remove(task: Task) -> None:
            async with gate:
                await task.destroy()
                await (await client.containers.get(task.container)).delete()

        await asyncio.gather(*(remove(task) for task in tasks))
    return {
        "shims": len(sizes),
        "mean": statistics.fmean(sizes),
        "max": max(sizes),
        "daemon": daemon_size,
    }


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    found = {
        daemon.name: asyncio.run(shims(daemon, str(pair.rootfs), options.containers, options.execs))
        for daemon in (pair.ours, pair.go)
    }
    unit = 1 << 20
    return {
        f"PSS per shim, {options.containers} containers, {options.execs} execs each": {
            "unit": "MiB",
            "ours": {"mean": found["ours"]["mean"] / unit, "max": found["ours"]["max"] / unit},
            "go": {"mean": found["go"]["mean"] / unit, "max": found["go"]["max"] / unit},
            "ratio": {
                "mean": found["ours"]["mean"] / found["go"]["mean"],
                "max": found["ours"]["max"] / found["go"]["max"],
            },
            "shims": {name: found[name]["shims"] for name in found},
        },
        "PSS of the daemon": {
            "unit": "MiB",
            "ours": {"mean": found["ours"]["daemon"] / unit},
            "go": {"mean": found["go"]["daemon"] / unit},
            "ratio": {"mean": found["ours"]["daemon"] / found["go"]["daemon"]},
        },
    }
