"""Entries for forked workers: JSON arguments and descriptors in, a JSON result out.

A worker is a process of its own that ends after the call: it may change its
umask and enter a mount namespace, in which everything it mounts disappears
with it, even after kill -9. Nobody else sees these mounts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from longshore.layers import overlay, tar, trees
from longshore.layers.apply import apply as apply_layer
from longshore.layers.compression import Digester, decompressed
from longshore.linux import libc, namespaces
from longshore.linux.mounts import MS_PRIVATE, MS_REC, Mount, mount, mount_all

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def apply(arguments: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Apply the layer read from ``fds[0]`` to the tree that ``mounts`` show.

    mounts       list of [type, source, [options], target]
    compression  none, gzip, zstd, or auto (look at the first bytes)
    scratch      an existing directory: mounted upon, in this process's own namespace, if need be
    sync         whether the data must be on disk at the return

    Returns digest and size of the uncompressed stream and the number of its
    entries. Raises InvalidLayer for a bad layer, OSError for a bad day.
    """
    with ExitStack() as stack:
        target = stack.enter_context(_target(mounts_of(arguments["mounts"]), arguments["scratch"]))
        stream = Digester(decompressed(fds[0], arguments["compression"]))
        reader = tar.Reader(stream.chunk)
        count = apply_layer(reader, target.root, target.lowers, target.xattr_prefix)
        reader.drain()
        if arguments["sync"]:
            libc.call("syncfs", target.root)
    return {"digest": stream.digest, "size": stream.size, "entries": count}


def usage(arguments: dict[str, Any], fds: Sequence[int]) -> dict[str, int]:
    """Disk usage of the directory ``path``: size in bytes, inodes."""
    size, inodes = trees.usage(arguments["path"])
    return {"size": size, "inodes": inodes}


def copy(arguments: dict[str, Any], fds: Sequence[int]) -> None:
    """Copy the directory ``source`` into the empty directory ``target``."""
    with _opened(arguments["source"]) as source, _opened(arguments["target"]) as target:
        trees.copy_tree(source, target)


def remove(arguments: dict[str, Any], fds: Sequence[int]) -> None:
    """Remove ``names`` in ``directory`` with all below."""
    with _opened(arguments["directory"]) as directory:
        for name in arguments["names"]:
            trees.remove(directory, os.fsencode(name))


# -- targets ------------------------------------------------------------------------------------------------


class _Target(NamedTuple):
    root: int
    lowers: overlay.Lowers | None
    xattr_prefix: str


def mounts_of(rows: Sequence[Sequence[Any]]) -> list[Mount]:
    """Mounts as they travel in JSON."""
    return [Mount(kind, source, tuple(options), target) for kind, source, options, target in rows]


@contextmanager
def _target(mounts: Sequence[Mount], scratch: str) -> Iterator[_Target]:
    """Where to write: straight into the upper directory, or bind source, of a single mount; else mounted."""
    plan = upper_of(mounts)
    if plan is not None:
        upper, lowers, prefix = plan
        with _opened(upper) as root, overlay.Lowers(lowers, prefix) as below:
            yield _Target(root, below, prefix)
        return
    with _opened(mounted_at(mounts, scratch)) as root:
        yield _Target(root, None, overlay.XATTR_PREFIXES[0])


def upper_of(mounts: Sequence[Mount]) -> tuple[str, list[str], str] | None:
    """(upper, lowers, xattr prefix) if `mounts` is one overlay mount with an upper directory."""
    if len(mounts) != 1 or mounts[0].type != "overlay":
        return None
    options = dict(option.partition("=")[::2] for option in mounts[0].options)
    if not options.get("upperdir"):
        return None
    prefix = overlay.XATTR_PREFIXES["userxattr" in options]
    return options["upperdir"], _split_lowers(options.get("lowerdir", "")), prefix


def _split_lowers(text: str) -> list[str]:
    """Paths separated by colons; a backslash protects the character behind it."""
    paths, current, characters = [], "", iter(text)
    for character in characters:
        if character == ":":
            paths.append(current)
            current = ""
        else:
            current += next(characters, "") if character == "\\" else character
    return [path for path in [*paths, current] if path]


def mounted_at(mounts: Sequence[Mount], scratch: str) -> str:
    """A directory showing `mounts`: the source of a simple bind mount, or `scratch` with all mounted on it."""
    if not mounts:
        raise ValueError("no mounts")
    only = mounts[0]
    if len(mounts) == 1 and not only.target and set(only.options) <= {"bind", "rbind", "rw"} and only.options:
        return only.source
    enter_private_namespace()
    mount_all(mounts, scratch)
    return scratch


def enter_private_namespace() -> None:
    """From now on this process's mounts are its own business."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _OPEN)
    try:
        yield fd
    finally:
        os.close(fd)
