"""Pull and unpack an image of 12 layers and about 500 MB, and ones of 1 to 16 layers that are alike; Debian's ctr.

The registry is on loopback; the layers hold files of unpacked Debian packages and of this machine, gzipped. Layers
that are alike hold the same files, each below a folder of its own. Each pull begins after the last image and its
content are gone, with free memory for this one at hand. The two daemons are others than those of the other scenarios:
their roots are on a file system with a journal.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import daemons, private
from bench.daemons import Daemon, Pair
from bench.measure import Program, Taken, Turn, have_memory, take_turns
from bench.report import Figures
from bench.report import measure as figures
from support import goparts
from support.registry import Registry, publish

LAYERS = 12
SIZE = 500 << 20
QUICK = 60 << 20
GROWTH = (1, 2, 4, 8, 16)
LARGE = 2 << 20  # bytes of a file
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


def alike(count: int) -> list[bytes]:
    """Tar archives of the same files, some 20 MiB, in folders of their own.

    Of the smaller files every eighth: a few large ones would make all of it, and cost little each.
    """
    paths = [path for path, length in files() if length < LARGE][::8]
    return [archive(paths, f"{number:02}/") for number in range(count)]


def archive(paths: list[Path], folder: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in paths:
            tar.add(path, arcname=folder + str(path).lstrip("/"), recursive=False)
    return buffer.getvalue()


def pull(daemon: Daemon, turn: Turn, measured: str, name: str, archives: list[bytes]) -> None:
    """The image is removed again, with all that it kept."""
    have_memory(private.folder(), 2 * sum(map(len, archives)))  # for the blobs and what is in them
    count = len(archives)
    with turn.timed(measured):
        Program(daemon.name, daemon.ctr("images", "pull", "--plain-http"))(name)
    unpacked = daemon.ask("snapshots", "ls").count("Committed")
    if unpacked != count:
        raise RuntimeError(f"{daemon.name}: {unpacked} of {count} layers were unpacked of {name}")
    daemon.ask("images", "rm", "--sync", name)
    os.sync()  # what one wrote isn't written out in the other's turn


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    results: dict[str, Figures] = {}
    with private.disk() as place, daemons.both(place, "-pull") as sides, Registry() as registry:
        # An address needs no look-up, which a busy machine may not answer.
        registry.address = f"127.0.0.1:{registry.port}"
        counts = GROWTH[: 2 if options.quick else None]
        same = alike(counts[-1])
        for count in counts:
            layers_of = "1 layer" if count == 1 else f"{count} layers, each"
            name = f"pull and unpack, {layers_of} of {len(same[0]) >> 20} MiB"
            found = turns(sides, options, registry.name(f"same:{count}"), name, same[:count])
            results[name] = figures(found, series="pull by layers", size=count)
        same.clear()
        whole = layers(size=QUICK if options.quick else SIZE)
        name = f"pull and unpack, {len(whole)} layers, {sum(map(len, whole)) >> 20} MiB"
        found = turns(sides, options, registry.name("big:1"), name, whole)
        return {name: figures(found, aim=0.5), **results}


def turns(
    sides: Sequence[Daemon], options: argparse.Namespace, image: str, name: str, archives: list[bytes]
) -> dict[str, Taken]:
    """What each side took to pull an image of these layers."""
    asyncio.run(publish(image, archives))

    def work(daemon: Daemon, turn: Turn) -> None:
        pull(daemon, turn, name, image, archives)

    return take_turns(sides, options.few, work)[name]
