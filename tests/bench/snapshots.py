"""Prepare, Commit, View, Remove on a chain of 1, 10 and 100 snapshots, by one client of ours on both."""

from __future__ import annotations

import argparse
from typing import Any

from bench.daemons import Daemon, Pair
from bench.measure import Turn, take_turns
from bench.report import Figures
from bench.report import measure as figures
from longshore.client import AsyncClient

DEPTHS = (1, 10, 100)


async def chain(snapshots: Any, depth: int) -> str:
    """The name at the top of `depth` committed snapshots."""
    parent = ""
    for level in range(depth):
        await snapshots.prepare(f"b-{level}-active", parent)
        parent = f"b-{level}"
        await snapshots.commit(parent, f"b-{level}-active")
    return parent


async def cycle(snapshots: Any, parent: str) -> tuple[Any, Any]:
    """The mounts of a snapshot to write to, and of one to read."""
    writable = await snapshots.prepare("b-key", parent)
    await snapshots.commit("b-done", "b-key")
    readable = await snapshots.view("b-view", "b-done")
    await snapshots.remove("b-view")
    await snapshots.remove("b-done")
    return writable, readable


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    results: dict[str, Figures] = {}
    for depth in DEPTHS:
        name = f"snapshot: prepare, commit, view, remove at depth {depth}"

        async def work(daemon: Daemon, turn: Turn, name: str = name, depth: int = depth) -> None:
            async with AsyncClient(str(daemon.address), daemon.namespace) as owner, owner.leased() as client:
                snapshots = client.snapshots()
                parent = await chain(snapshots, depth)
                for _ in range(options.per_round):
                    with turn.timed(name):
                        writable, readable = await cycle(snapshots, parent)
                    lowers = next(option for option in readable[0].options if option.startswith("lowerdir="))
                    if not writable or lowers.count(":") != depth:
                        raise RuntimeError(f"{daemon.name}: the view isn't of {depth + 1} layers: {lowers}")
                for level in reversed(range(depth)):
                    await snapshots.remove(f"b-{level}")

        found = take_turns(pair.sides, max(2, options.rounds // 2), work)
        results[name] = figures(found[name], aim=0.6, series="snapshot cycle by depth", size=depth)
    return results
