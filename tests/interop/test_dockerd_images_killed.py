"""dockerd killed while it pulls: the next one goes on where it stood, and nothing is left of the first."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import AsyncClient
from longshore.client.pull import INTERRUPTED
from longshore.client.snapshots import KIND_NAMES
from longshore.dockerd.images import names
from longshore.dockerd.images.registries import Auth
from support import layers
from support.daemon import Longshore
from support.enginekit import images_on
from support.registry import Registry, publish
from support.soak import times

TESTS = Path(__file__).parent.parent
PULL = """
import asyncio, sys, types
from pathlib import Path
from longshore.dockerd.images import names
from longshore.dockerd.images.registries import Auth
from support.enginekit import images_on

async def main(address, namespace, folder, name):
    daemon = types.SimpleNamespace(address=address, namespace=namespace)
    async with images_on(daemon, Path(folder)) as images:
        async for line in images.pull(names.parse(name), Auth()):
            print(line["status"], flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


def noise(seed: int, size: int) -> bytes:
    data = random.Random(seed).randbytes(size)
    return layers.layer(layers.member(f"noise{seed}", data=data))


def pull_and_die(daemon: Longshore, namespace: str, folder: Path, name: str, lines: int) -> None:
    """SIGKILL after so many lines, or at the end."""
    command = [sys.executable, "-c", PULL, str(daemon.address), namespace, str(folder), name]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as running:
        assert running.stdout is not None
        for count, _ in enumerate(running.stdout, 1):
            if count >= lines:
                break
        running.kill()


async def collected(client: AsyncClient) -> None:
    await client.leases.delete((await client.leases.create()).id, sync=True)


@pytest.mark.parametrize(
    "lines", [1, 2, 4, *(random.Random(r).randrange(3, 18) for r in range(times(3, 40)))]
)
async def test_a_pull_killed_and_taken_up(
    daemon: Longshore, registry: Registry, tmp_path: Path, lines: int
) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    name, namespace = registry.name(f"kill/r{seed}:1"), f"k{seed}"
    await publish(name, [noise(seed + place, (2 + place) << 20) for place in range(3)])
    pull_and_die(daemon, namespace, tmp_path, name, lines)
    async with (
        AsyncClient(str(daemon.address), namespace) as client,
        images_on(daemon, tmp_path, namespace=namespace) as images,
    ):
        assert [lease for lease in await client.leases.list() if INTERRUPTED not in lease.labels] == []
        await collected(client)
        held = {status.ref: status.offset for status in await client.content.statuses()}
        said = [line["status"] async for line in images.pull(names.parse(name), Auth())]
        assert said[-1].startswith("Status: ")
        assert (await images.resolve(name)).names == (name,)
        print("resumed", held)
        assert await client.leases.list() == []
        assert await client.content.statuses() == []
        kinds = {KIND_NAMES[snapshot.kind] for snapshot in await client.snapshots().list()}
        assert kinds == {"Committed"}
        await images.remove(name, [])
        assert await client.content.list() == []
        assert await client.snapshots().list() == []
