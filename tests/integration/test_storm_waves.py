"""Waves of fifty containers at once: every exit status right, and nothing left in daemon, zygote, shims or kernel."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

from longshore.client import AsyncClient
from support import images, leaks, soak
from support.daemon import Longshore
from support.process import eventually

AT_ONCE = 50
WAVES = soak.times(2, 20)
# After this wave, caches are filled: SQLite's pages are, after some 600 containers; it stays so for thousands.
WARM = soak.times(0, 12)
MEMORY = 6 << 20  # bytes that a process may have grown since


class Held(NamedTuple):
    """What a process holds."""

    fds: int
    memory: int
    children: int
    mounts: int


def held(pid: int, folder: Path) -> Held:
    """`folder` is the daemon's: mounts of others, in the namespace that all share, come and go."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Private_"))
    return Held(
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        memory=private,
        children=len(children(pid)),
        mounts=Path(f"/proc/{pid}/mountinfo").read_text().count(str(folder)),
    )


def children(pid: int) -> list[int]:
    return [
        int(word)
        for task in os.listdir(f"/proc/{pid}/task")
        for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    ]


def zygote_of(pid: int) -> int:
    (found,) = [child for child in children(pid) if b"zygote" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found


async def one(client: AsyncClient, rootfs: str, number: int) -> int:
    """A life; every fifth is killed, the others end by themselves."""
    killed = number % 5 == 0
    script = "while :; do sleep 100; done" if killed else f"exit {number % 100}"
    container = await client.containers.create(
        f"storm-{number}", rootfs=rootfs, args=("/bin/sh", "-c", script)
    )
    task = await container.create_task()
    await task.start()
    if killed:
        await task.kill(9)
    status = await task.wait()
    await task.delete()
    await container.delete()
    expected = 137 if killed else number % 100
    assert status.code == expected, (number, status)
    return number


async def wave(client: AsyncClient, rootfs: str, first: int) -> None:
    done = await asyncio.gather(*(one(client, rootfs, first + number) for number in range(AT_ONCE)))
    assert len(done) == AT_ONCE


def test_waves_leave_nothing(tmp_path: Path) -> None:
    rootfs = str(images.busybox_rootfs(tmp_path))
    with Longshore() as daemon:
        zygote = zygote_of(daemon.pid)
        pids = {"daemon": daemon.pid, "zygote": zygote}
        bundles = daemon.state / "io.containerd.runtime.v2.task" / daemon.namespace
        watch = leaks.Watch([], [daemon.namespace])
        before: dict[str, Held] = {}
        memory: list[int] = []

        def calm() -> bool:
            shims = [
                line for line in daemon.watch.processes().values() if f"-namespace {daemon.namespace}" in line
            ]
            return not shims and not watch.left() and not (bundles.exists() and os.listdir(bundles))

        async def storm() -> None:
            async with AsyncClient(str(daemon.address), daemon.namespace) as client:
                for number in range(WAVES):
                    await wave(client, rootfs, number * AT_ONCE)
                    memory.append(held(daemon.pid, daemon.folder).memory >> 10)
                    if number == WARM:
                        await asyncio.to_thread(eventually, calm)
                        before.update({name: held(pid, daemon.folder) for name, pid in pids.items()})

        asyncio.run(storm())
        eventually(calm)
        print("the daemon's memory, KiB, wave by wave:", *memory)
        assert zygote_of(daemon.pid) == zygote, "the zygote died on the way"
        for name, pid in pids.items():
            old = before[name]
            eventually(lambda pid=pid, old=old: held(pid, daemon.folder).fds <= old.fds)  # type: ignore[misc]
            now = held(pid, daemon.folder)
            assert (now.children, now.mounts) == (old.children, old.mounts), name
            assert now.memory - old.memory < MEMORY, f"{name} grew by {(now.memory - old.memory) >> 10} KiB"
            print(f"{name}: {old} -> {now}")
