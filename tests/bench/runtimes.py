"""(j) The OCI runtime as a command: `run`, and create + start + delete; ours, Debian's runc, and crun beside them.

Ours is the launcher that `longshore link` writes, with its sealing on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from bench.daemons import Pair
from bench.report import figures
from support import goparts

_numbers = count()


def bundle(folder: Path, rootfs: Path) -> Path:
    """With the spec that runc itself proposes, without a terminal."""
    subprocess.run([goparts.path("runc"), "spec"], cwd=folder, check=True)
    path = folder / "config.json"
    spec = json.loads(path.read_text())
    spec["process"].update(terminal=False, args=["/bin/true"])
    spec["root"] = {"path": str(rootfs), "readonly": False}
    spec["linux"]["cgroupsPath"] = f"/ls-bench-{os.getpid()}/box"
    path.write_text(json.dumps(spec))
    return folder


def quietly(*command: str | Path) -> None:
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        env=goparts.environment(),
    )


def run(program: list[str], folder: Path) -> float:
    name = f"bench-{next(_numbers)}"
    started = time.perf_counter()
    quietly(*program, "run", "--bundle", folder, name)
    return time.perf_counter() - started


def cycle(program: list[str], folder: Path) -> float:
    name = f"bench-{next(_numbers)}"
    started = time.perf_counter()
    quietly(*program, "create", "--bundle", folder, name)
    quietly(*program, "start", name)
    quietly(*program, "delete", "--force", name)
    return time.perf_counter() - started


def crun_works(program: list[str], folder: Path) -> bool:
    """crun 1.8 refuses hybrid cgroups: then it isn't in the table."""
    try:
        run(program, folder)
    except subprocess.CalledProcessError:
        return False
    return True


def compare(
    programs: dict[str, list[str]],
    folder: Path,
    work: Callable[[list[str], Path], float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(options.rounds):
        names = list(programs) if number % 2 == 0 else list(reversed(programs))
        for name in names:
            times[name] += [work(programs[name], folder) for _ in range(options.per_round)]
    found = {name: figures(values) for name, values in times.items()}
    ratio = {key: found["ours"][key] / found["go"][key] for key in ("p50", "p99", "rate")}
    return {"unit": "ms", **found, "ratio": ratio}


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ls-bench-oci-") as name:
        work = Path(name)
        (work / "bundle").mkdir()
        folder = bundle(work / "bundle", pair.rootfs)
        subprocess.run(
            [sys.executable, "-m", "longshore.launcher", "link", str(work / "bin")],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        programs = {
            "ours": [str(work / "bin/runc"), "--root", str(work / "ours")],
            "go": [str(goparts.path("runc")), "--root", str(work / "go")],
        }
        crun = [str(goparts.path("crun")), "--root", str(work / "crun")]
        if crun_works(crun, folder):
            programs["crun"] = crun
        try:
            return {
                "runc run": compare(programs, folder, run, options),
                "runc create, start, delete": compare(programs, folder, cycle, options),
            }
        finally:
            from bench.daemons import remove_cgroups

            remove_cgroups(f"ls-bench-{os.getpid()}")
