"""Write and read 1 GiB of content through the API, by one client of ours on both."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from functools import cache

from bench import private
from bench.daemons import Daemon, Pair
from bench.measure import Turn, have_memory, take_turns
from bench.report import Figures, measures
from longshore.client import AsyncClient

BLOCK = 1 << 20
DATA = bytes(range(256)) * (BLOCK // 256)


def blocks(count: int, number: int) -> Iterator[bytes]:
    """Another blob for every number: a store that still has one doesn't write it again."""
    yield number.to_bytes(8) + DATA[8:]
    for _ in range(count - 1):
        yield DATA


async def streamed(data: Iterator[bytes]) -> AsyncIterator[bytes]:
    for block in data:
        yield block


@cache
def digest(count: int, number: int) -> str:
    seen = hashlib.sha256()
    for block in blocks(count, number):
        seen.update(block)
    return f"sha256:{seen.hexdigest()}"


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    count = options.content
    numbers = {daemon.name: itertools.count() for daemon in pair.sides}
    write, read = (f"content {verb}, {count} MiB" for verb in ("write", "read"))

    async def work(daemon: Daemon, turn: Turn) -> None:
        """The daemon checks the digest of what is written; of what is read the length is looked at."""
        number = next(numbers[daemon.name])
        expected = digest(count, number)
        have_memory(private.folder(), count * BLOCK)
        async with AsyncClient(str(daemon.address), daemon.namespace) as owner:
            lease = await owner.leases.create()
            client = owner.with_lease(lease.id)
            data = streamed(blocks(count, number))
            with turn.timed(write):
                await client.content.write("bench", data, size=count * BLOCK, expected=expected)
            length = 0
            with turn.timed(read):
                async for block in client.content.chunks(expected):
                    length += len(block)
            if length != count * BLOCK:
                raise RuntimeError(f"{daemon.name}: read {length} bytes of {count * BLOCK}")
            await owner.leases.delete(lease.id, sync=True)  # and the blob with it
        os.sync()  # what one wrote isn't written out in the other's turn

    return measures(take_turns(pair.sides, options.few, work, within=90), aims={write: 0.4, read: 1.0})
