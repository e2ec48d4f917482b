"""Exec in a running container, and what a container prints, by one client of ours on both daemons."""

from __future__ import annotations

import argparse

from bench.daemons import Daemon, Pair
from bench.measure import Turn, take_turns
from bench.report import Figures, measures
from longshore.client import AsyncClient
from longshore.client.io import Pipes

EXEC = "exec: made, started, ended, deleted"


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    rootfs, mebibytes = str(pair.rootfs), options.content
    output = f"a container prints {mebibytes} MiB"

    async def execs(daemon: Daemon, turn: Turn) -> None:
        async with (
            AsyncClient(str(daemon.address), daemon.namespace) as client,
            client.run(rootfs=rootfs, args=("/bin/sleep", "600")) as task,
        ):
            for _ in range(options.per_round):
                with turn.timed(EXEC):
                    process = await task.exec(("/bin/sh", "-c", "exit 7"))
                    await process.start()
                    status = await process.wait()
                    await process.delete()
                if status.code != 7:
                    raise RuntimeError(f"{daemon.name}: exec ended with {status.code}, not 7")

    async def prints(daemon: Daemon, turn: Turn) -> None:
        command = ("/bin/dd", "if=/dev/zero", "bs=1M", f"count={mebibytes}")
        async with AsyncClient(str(daemon.address), daemon.namespace) as client:
            length = 0
            with turn.timed(output):
                async with client.run(rootfs=rootfs, args=command, io=Pipes(stdin=False)) as task:
                    async for block in task.stdout:
                        length += len(block)
                    status = await task.wait()
        if length != mebibytes << 20 or status.code != 0:
            raise RuntimeError(f"{daemon.name}: {length} bytes came, exit status {status.code}")

    found = take_turns(pair.sides, options.rounds, execs)
    found |= take_turns(pair.sides, options.few, prints)
    return measures(found, aims={EXEC: 0.3, output: 1.0})
