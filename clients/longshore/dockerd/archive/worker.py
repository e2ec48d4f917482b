"""Entries for forked workers: JSON arguments and descriptors in, a JSON result out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from longshore.dockerd.archive import changes as differences
from longshore.dockerd.archive import paths, view
from longshore.dockerd.archive.pack import Packer
from longshore.dockerd.archive.unpack import Refused, Unpacker, Wishes
from longshore.layers import overlay, tar, worker
from longshore.layers.compression import decompressed
from longshore.layers.writer import Writer
from longshore.linux import files

_BUFFER: Final = 1 << 18


def describe(arguments: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Statistics of ``path`` in the container (`view.root_of`)."""
    root = view.root_of(arguments)
    return paths.describe(root, arguments["path"], paths.find(root, arguments["path"]))


def pack(arguments: dict[str, Any], fds: Sequence[int]) -> None:
    """To ``fds[0]``: a line of JSON, the statistics of ``path``, and then its archive."""
    root = view.root_of(arguments)
    found = paths.find(root, arguments["path"])
    with _gathered(fds[0]) as file:
        file.write(json.dumps(paths.describe(root, arguments["path"], found)).encode() + b"\n")
        writer = Writer(file.write)
        Packer(writer).tree(found.directory, os.fsencode(found.name), os.fsencode(found.shown))
        writer.close()


def export(arguments: dict[str, Any], fds: Sequence[int]) -> None:
    """To ``fds[0]``: the archive of a snapshot (``mounts``, ``scratch``), without what is mounted on it."""
    root = view.of_layers(arguments["mounts"], arguments["scratch"])
    with _gathered(fds[0]) as file:
        writer = Writer(file.write)
        Packer(writer).below(root)
        writer.close()


def unpack(arguments: dict[str, Any], fds: Sequence[int]) -> None:
    """From ``fds[0]`` into the directory ``path``: ``strict``, ``owner`` (or null), ``readonly`` root.

    Raises Refused, NotADirectoryError, FileNotFoundError, InvalidLayer.
    """
    root = view.root_of(arguments)
    place = arguments["path"]
    directory = files.open_in_root(root, place, os.O_RDONLY | os.O_DIRECTORY)
    _check_writable(root, directory, arguments["readonly"])
    owner = arguments["owner"]
    wishes = Wishes(arguments["strict"], (owner[0], owner[1]) if owner else None)
    chunks = decompressed(fds[0])
    reader = tar.Reader(lambda: next(chunks, b""))
    Unpacker(reader, root, place, wishes).run()
    reader.drain()


def _check_writable(root: int, directory: int, readonly: bool) -> None:
    inside = files.mount_id(root) == files.mount_id(directory)
    if inside and readonly:
        raise Refused("container rootfs is marked read-only")
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise Refused(
            "container rootfs is marked read-only" if inside else "mounted volume is marked read-only"
        )


def changes(arguments: dict[str, Any], fds: Sequence[int]) -> list[tuple[str, int]]:
    """Of the snapshot ``mounts``. Raises Refused where it isn't one overlay."""
    return differences.of(*_layers(arguments["mounts"]))


def size(arguments: dict[str, Any], fds: Sequence[int]) -> int:
    """Bytes in the files of the snapshot's own layer, as they are long. Raises Refused."""
    return differences.size(_layers(arguments["mounts"])[0])


def _layers(rows: Sequence[Sequence[Any]]) -> tuple[str, list[str], str]:
    """(own directory, those below, prefix of overlay's attributes)."""
    mounts = worker.mounts_of(rows)
    if plan := worker.upper_of(mounts):
        return plan
    # Without lower layers it is a plain directory: everything in it is new.
    if len(mounts) != 1 or mounts[0].type not in ("bind", "rbind"):
        raise Refused("this snapshotter doesn't tell what was changed")
    return mounts[0].source, [], overlay.XATTR_PREFIXES[0]


@contextmanager
def _gathered(fd: int) -> Iterator[BinaryIO]:
    """Small pieces are gathered: a header is 512 bytes, a write a system call."""
    os.set_blocking(fd, True)
    with open(fd, "wb", buffering=_BUFFER, closefd=False) as file:
        yield file
