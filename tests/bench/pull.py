"""Pull and unpack an image of 12 layers and about 500 MB, and ones of 1, 2, 4 and 8 of them; Debian's ctr on both.

The registry is on loopback; the layers hold files of unpacked Debian packages and of this machine, gzipped. Each
pull begins after the last image and its content are gone.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from bench.daemons import Daemon, Pair
from bench.measure import Program, Turn, take_turns
from bench.report import Figures
from bench.report import measure as figures
from support import goparts
from support.registry import Registry, publish

LAYERS = 12
SIZE = 500 << 20
QUICK = 60 << 20
GROWTH = (1, 2, 4, 8)
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


def pull(daemon: Daemon, turn: Turn, measured: str, name: str, count: int) -> None:
    """The image is removed again, with all that it kept."""
    with turn.timed(measured):
        Program(daemon.name, daemon.ctr("images", "pull", "--plain-http"))(name)
    unpacked = daemon.ask("snapshots", "ls").count("Committed")
    if unpacked != count:
        raise RuntimeError(f"{daemon.name}: {unpacked} of {count} layers were unpacked of {name}")
    daemon.ask("images", "rm", "--sync", name)
    os.sync()  # what one wrote isn't written out in the other's turn


def clean(daemon: Daemon) -> None:
    """No image and no layer of another scenario."""
    for image in daemon.ask("images", "ls", "-q").split():
        daemon.ask("images", "rm", "--sync", image)


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    for daemon in pair.sides:
        clean(daemon)
    results: dict[str, Figures] = {}
    with Registry() as registry:
        registry.address = (
            f"127.0.0.1:{registry.port}"  # needs no look-up, which a busy machine may not answer
        )
        archives = layers(size=QUICK if options.quick else SIZE)
        whole = sum(map(len, archives)) >> 20
        names = {len(archives): f"pull and unpack, {len(archives)} layers, {whole} MiB"}
        for count in GROWTH[: 2 if options.quick else None]:
            part = sum(map(len, archives[:count])) >> 20
            names[count] = (
                f"pull and unpack, {count} layers, {part} MiB"
                if count > 1
                else f"pull and unpack, 1 layer, {part} MiB"
            )
        for count in sorted(names, reverse=True):
            asyncio.run(publish(registry.name(f"big:{count}"), archives[:count]))

        for count, name in names.items():
            image = registry.name(f"big:{count}")

            def work(
                daemon: Daemon, turn: Turn, name: str = name, image: str = image, count: int = count
            ) -> None:
                pull(daemon, turn, name, image, count)

            full = count == len(archives)
            found = take_turns(pair.sides, options.few if full else max(2, options.few - 1), work)
            results[name] = figures(
                found[name],
                aim=0.5 if full else None,
                series="pull by layers",
                size=count,
            )
    return results
