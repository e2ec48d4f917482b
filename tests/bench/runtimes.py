"""The OCI runtime as a command: `run`, and create, start, delete; ours, Debian's runc, and crun beside them.

Ours is the launcher that `longshore link` writes, with its sealing on. crun 1.8 refuses hybrid cgroups whatever
its flags say; it runs in a mount namespace without the v2 tree, which nsenter takes it into: 1 ms of its figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from bench import private
from bench.daemons import LONGSHORE, Pair
from bench.measure import CGROUPS, Program, Turn, take_turns
from bench.report import Figures, measures
from support import goparts

RUN, CYCLE = "runc run", "runc create, start, delete"
_numbers = count()


def bundle(folder: Path, rootfs: Path) -> Path:
    """With the spec that runc itself proposes, without a terminal."""
    folder.mkdir()
    subprocess.run([goparts.path("runc"), "spec"], cwd=folder, check=True)
    path = folder / "config.json"
    spec = json.loads(path.read_text())
    spec["process"].update(terminal=False, args=["/bin/sh", "-c", "echo 1 > /done"])
    spec["root"] = {"path": str(rootfs), "readonly": False}
    spec["linux"]["cgroupsPath"] = f"/{private.folder().name}-runtimes/box"
    path.write_text(json.dumps(spec))
    return folder


@contextmanager
def crun(root: Path) -> Iterator[list[str]]:
    """Words that run crun, in a mount namespace without /sys/fs/cgroup/unified where there is one."""
    words = [str(goparts.path("crun")), "--root", str(root)]
    if not (CGROUPS / "unified").is_dir():
        yield words
        return
    script = f"umount {CGROUPS / 'unified'} && echo && exec cat"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdout.readline()
        yield ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--wd=.", *words]
        holder.stdin.close()


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    work = private.folder() / "oci"
    work.mkdir()
    folder = bundle(work / "bundle", pair.rootfs)
    subprocess.run([*LONGSHORE, "link", str(work / "bin")], check=True, stdout=subprocess.DEVNULL)
    with crun(work / "crun") as words:
        programs = [
            Program("ours", [work / "bin/runc", "--root", work / "ours"]),
            Program("go", [goparts.path("runc"), "--root", work / "go"]),
            Program("crun", words),
        ]
        if not works(programs[2], folder):
            options.say("runtimes: without crun, which refuses this machine's cgroups")
            del programs[2]

        def turn_of(program: Program, turn: Turn) -> None:
            for _ in range(options.per_round):
                one(program, turn, folder, pair.rootfs / "done")

        found = take_turns(programs, options.rounds, turn_of)
    return measures(found, aims={RUN: 0.7, CYCLE: 0.9})


def one(program: Program, turn: Turn, folder: Path, done: Path) -> None:
    """RuntimeError unless the container wrote its file each time."""
    name = f"bench-{next(_numbers)}"
    if turn.first:
        program.weigh("run", "--bundle", folder, f"{name}-weighed")
    with turn.timed(RUN):
        program("run", "--bundle", folder, name)
    _written(program, done)
    with turn.timed(CYCLE):
        program("create", "--bundle", folder, name, stdout=None, stderr=None)
        program("start", name)
        program("delete", "--force", name)


def _written(program: Program, done: Path) -> None:
    if not done.exists():
        raise RuntimeError(f"{program.name}: nothing ran")
    done.unlink()


def works(program: Program, folder: Path) -> bool:
    try:
        program("run", "--bundle", folder, "first")
    except subprocess.CalledProcessError:
        return False
    return True
