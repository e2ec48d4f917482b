"""(l) From exec of the daemon until its socket answers, and its private memory then; empty, each a fresh root."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.daemons import Pair
from bench.report import summary
from bench.versions import answers
from support import goparts

DISABLED = 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
PROGRAMS = {
    "ours": [sys.executable, "-m", "longshore.launcher", "containerd"],
    "go": [str(goparts.PROJECT / ".cache/goparts/bin/containerd")],
}


def private(pid: int) -> int:
    """Bytes that only this process has; 0 if it has just gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in family(int(child)))]


@contextmanager
def running(name: str, folder: Path) -> Iterator[tuple[float, int]]:
    """A daemon on what is in `folder`: seconds until it answered, and its private bytes then, with its zygote's."""
    (folder / "config.toml").write_text(DISABLED)
    flags = [
        "--config",
        "config.toml",
        "--root",
        "root",
        "--state",
        "state",
        "--address",
        str(folder / "c.sock"),
    ]
    started = time.perf_counter()
    daemon = subprocess.Popen(
        [*PROGRAMS[name], *flags, "--log-level", "error"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=goparts.environment(dict(os.environ)),
    )
    try:
        while not answers(folder / "c.sock"):
            if daemon.poll() is not None:
                raise RuntimeError(f"{name} ended with {daemon.returncode}")
            time.sleep(0.002)
        elapsed = time.perf_counter() - started
        yield elapsed, sum(private(pid) for pid in family(daemon.pid))
    finally:
        daemon.terminate()
        daemon.wait()


def start(name: str) -> tuple[float, int]:
    """On an empty folder."""
    folder = Path(tempfile.mkdtemp(prefix="ls-cold-", dir="/run"))
    try:
        with running(name, folder) as found:
            return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    times: dict[str, list[float]] = {"ours": [], "go": []}
    sizes: dict[str, list[int]] = {"ours": [], "go": []}
    for daemon in pair.turns(options.rounds):
        elapsed, size = start(daemon.name)
        times[daemon.name].append(elapsed)
        sizes[daemon.name].append(size)
    found = {name: {"mean": sum(values) / len(values) / (1 << 20)} for name, values in sizes.items()}
    return {
        "daemon: exec until it answers": summary(times),
        "daemon: private memory, idle": {
            "unit": "MiB",
            **found,
            "ratio": {"mean": found["ours"]["mean"] / found["go"]["mean"]},
        },
    }
