"""(g) Exec in a running container, and what a container prints, by one client of ours on both daemons."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from bench.daemons import Daemon, Pair, interleaved
from bench.report import summary
from longshore.client import AsyncClient
from longshore.client.io import Pipes


async def execs(daemon: Daemon, rootfs: str, count: int) -> list[float]:
    """Seconds of each: Exec, Start, the exit, DeleteProcess."""
    times: list[float] = []
    async with (
        AsyncClient(str(daemon.address), daemon.namespace) as client,
        client.run(rootfs=rootfs, args=("/bin/sleep", "600")) as task,
    ):
        for _ in range(count):
            started = time.perf_counter()
            process = await task.exec(("/bin/true",))
            await process.start()
            status = await process.wait()
            await process.delete()
            if status.code != 0:
                raise RuntimeError(f"{daemon.name}: exec ended with {status.code}")
            times.append(time.perf_counter() - started)
    return times


async def printed(daemon: Daemon, rootfs: str, mebibytes: int) -> float:
    """Seconds until a container has printed so much and all of it has been read from its FIFO."""
    command = ("/bin/dd", "if=/dev/zero", "bs=1M", f"count={mebibytes}")
    async with AsyncClient(str(daemon.address), daemon.namespace) as client:
        started = time.perf_counter()
        async with client.run(rootfs=rootfs, args=command, io=Pipes(stdin=False)) as task:
            length = 0
            async for block in task.stdout:
                length += len(block)
            status = await task.wait()
        elapsed = time.perf_counter() - started
    if length != mebibytes << 20 or status.code != 0:
        raise RuntimeError(
            f"{daemon.name}: {length} bytes of {mebibytes} MiB came, exit status {status.code}"
        )
    return elapsed


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    rootfs = str(pair.rootfs)
    size = options.content
    times = interleaved(pair, options.rounds, lambda d: asyncio.run(execs(d, rootfs, options.per_round)))
    output = interleaved(pair, max(1, options.rounds // 3), lambda d: [asyncio.run(printed(d, rootfs, size))])
    return {"exec": summary(times), f"a container prints {size} MiB": summary(output)}
