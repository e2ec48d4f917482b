"""(e) Write and read 1 GiB of content through the API, by one client of ours on both."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from bench.daemons import Daemon, Pair
from bench.report import summary
from longshore.client import AsyncClient

BLOCK = 1 << 20


async def blocks(count: int) -> AsyncIterator[bytes]:
    data = bytes(range(256)) * (BLOCK // 256)
    for _ in range(count):
        yield data


def digest(count: int) -> str:
    seen, data = hashlib.sha256(), bytes(range(256)) * (BLOCK // 256)
    for _ in range(count):
        seen.update(data)
    return f"sha256:{seen.hexdigest()}"


async def once(daemon: Daemon, count: int, expected: str) -> tuple[float, float]:
    """Seconds to write and to read; the content is gone afterwards."""
    async with (
        AsyncClient(str(daemon.address), daemon.namespace) as owner,
        owner.leased() as client,
    ):
        started = time.perf_counter()
        await client.content.write("bench", blocks(count), size=count * BLOCK, expected=expected)
        written = time.perf_counter()
        length = 0
        async for block in client.content.chunks(expected):
            length += len(block)
        read = time.perf_counter()
        if length != count * BLOCK:
            raise RuntimeError(f"{daemon.name}: read {length} bytes of {count * BLOCK}")
        await client.content.delete(expected)
    os.sync()
    return written - started, read - written


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    count = options.content
    expected = digest(count)
    writes: dict[str, list[float]] = {"ours": [], "go": []}
    reads: dict[str, list[float]] = {"ours": [], "go": []}
    for daemon in pair.turns(max(1, options.rounds // 3)):
        write, read = asyncio.run(once(daemon, count, expected))
        writes[daemon.name].append(write)
        reads[daemon.name].append(read)
    return {f"content write, {count} MiB": summary(writes), f"content read, {count} MiB": summary(reads)}
