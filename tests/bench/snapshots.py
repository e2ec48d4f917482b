"""(i) Prepare, write one file, Commit, Remove on a chain of 1, 10 and 100 snapshots, by one client of ours on both."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from bench.daemons import Daemon, Pair, interleaved
from bench.report import summary
from longshore.client import AsyncClient

DEPTHS = (1, 10, 100)


async def cycles(daemon: Daemon, depth: int, count: int) -> list[float]:
    """Seconds of each cycle above a chain of `depth` committed snapshots, which is removed in the end."""
    async with AsyncClient(str(daemon.address), daemon.namespace) as owner, owner.leased() as client:
        snapshots = client.snapshots()
        parent = ""
        for level in range(depth):
            await snapshots.prepare(f"b-{level}-active", parent)
            parent = f"b-{level}"
            await snapshots.commit(parent, f"b-{level}-active")
        times: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            mounts = await snapshots.prepare("b-key", parent)
            await snapshots.commit("b-done", "b-key")
            await snapshots.view("b-view", "b-done")
            await snapshots.remove("b-view")
            await snapshots.remove("b-done")
            times.append(time.perf_counter() - started)
            if not mounts:
                raise RuntimeError(f"{daemon.name}: Prepare answered no mounts")
        for level in reversed(range(depth)):
            await snapshots.remove(f"b-{level}")
        return times


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for depth in DEPTHS:
        times = interleaved(
            pair,
            max(2, options.rounds // 2),
            lambda daemon, depth=depth: asyncio.run(cycles(daemon, depth, options.per_round)),  # type: ignore[misc]
        )
        results[f"snapshot prepare, commit, view, remove at depth {depth}"] = summary(times)
    return results
