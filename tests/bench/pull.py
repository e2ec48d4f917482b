"""(d) Pull and unpack an image of 12 layers and about 500 MB from a registry on loopback, Debian's ctr on both.

The layers hold files of unpacked Debian packages, gzipped. Each turn pulls a
name of its own after the last image and its content are gone.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.daemons import Daemon, Pair
from bench.report import summary
from support import goparts
from support.registry import Registry, publish

LAYERS = 12
SIZE = 500 << 20
SOURCES = (
    goparts.PROJECT / ".cache/goparts/root",
    Path("/usr/lib/python3"),
    Path("/usr/share"),
    Path("/usr/lib"),
)


def files() -> Iterator[tuple[Path, int]]:
    """Files of the sources in a fixed order, until there are enough of them; with sizes in bytes."""
    total = 0
    for source in SOURCES:
        for folder, below, names in os.walk(source):
            below.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_symlink() or not path.is_file():
                    continue
                yield path, path.stat().st_size
                total += path.stat().st_size
                if total >= SIZE:
                    return


def layers(count: int = LAYERS, size: int = SIZE) -> list[bytes]:
    """Tar archives of about the same size, together of the first `size` bytes of files."""
    groups: list[list[Path]] = [[] for _ in range(count)]
    begun = 0
    for path, length in files():
        if begun >= size:
            break
        groups[begun * count // size].append(path)
        begun += length
    return [archive(group) for group in groups if group]


def archive(paths: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in paths:
            tar.add(path, arcname=str(path).lstrip("/"), recursive=False)
    return buffer.getvalue()


def pull(daemon: Daemon, name: str) -> float:
    """Seconds; the image is removed again, with all that it kept."""
    started = time.perf_counter()
    subprocess.run(daemon.ctr("images", "pull", "--plain-http", name), check=True, stdout=subprocess.DEVNULL)
    elapsed = time.perf_counter() - started
    listed = subprocess.run(daemon.ctr("snapshots", "ls"), check=True, capture_output=True, text=True)
    if "Committed" not in listed.stdout:
        raise RuntimeError(f"{daemon.name}: nothing was unpacked of {name}")
    subprocess.run(daemon.ctr("images", "rm", "--sync", name), check=True, stdout=subprocess.DEVNULL)
    os.sync()  # what one wrote isn't written out in the other's turn
    return elapsed


def turns(pair: Pair, name: str, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"ours": [], "go": []}
    for daemon in pair.turns(rounds):
        times[daemon.name].append(pull(daemon, name))
    return times


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    with Registry() as registry:
        name = registry.name("big:1")
        archives = layers()
        asyncio.run(publish(name, archives))
        times = turns(pair, name, max(1, options.rounds // 3))
    total = sum(map(len, archives)) >> 20
    return {f"pull and unpack, {len(archives)} layers, {total} MiB": summary(times)}
