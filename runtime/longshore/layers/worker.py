"""Entries for forked workers: JSON arguments and descriptors in, a JSON result out.

A worker is a process of its own that ends after the call: it may change its
umask and enter a mount namespace, in which everything it mounts disappears
with it, even after kill -9. Nobody else sees these mounts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from longshore.layers import overlay, tar, trees
from longshore.layers.apply import apply as apply_layer
from longshore.layers.compression import Digester, Sink, decompressed
from longshore.layers.diff import collect, compare
from longshore.layers.writer import Writer
from longshore.linux import libc, namespaces
from longshore.linux.mounts import MS_PRIVATE, MS_REC, Mount, mount, mount_all

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def apply(arguments: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Apply the layer read from ``fds[0]`` to the tree that ``mounts`` show.

    mounts       list of [type, source, [options], target]
    processors   programs that it passes through first, see `processors.processed`; may be absent
    compression  none, gzip, zstd, or auto (look at the first bytes), of what comes out of them
    scratch      an existing directory: mounted upon, in this process's own namespace, if need be
    sync         whether the data must be on disk at the return

    Returns digest and size of the uncompressed stream and the number of its
    entries. Raises InvalidLayer for a bad layer, OSError for a bad day.
    """
    with ExitStack() as stack:
        target = stack.enter_context(_target(mounts_of(arguments["mounts"]), arguments["scratch"]))
        source = fds[0]
        if arguments.get("processors"):
            from longshore.layers.processors import processed

            source = stack.enter_context(processed(source, arguments["processors"]))
        stream = Digester(decompressed(source, arguments["compression"]))
        reader = tar.Reader(stream.chunk)
        count = apply_layer(reader, target.root, target.lowers, target.xattr_prefix)
        reader.drain()
        if arguments["sync"]:
            libc.call("syncfs", target.root)
    return {"digest": stream.digest, "size": stream.size, "entries": count}


def diff(arguments: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
    """Write to ``fds[0]`` the layer that leads from the tree of mounts ``left`` to that of ``right``.

    left, right  lists as in `apply`; an empty one is an empty tree
    compression  none, gzip or zstd
    epoch_ns     upper limit of times, or null
    scratch      as in `apply`

    Returns digest and size of the stream before and after compression.
    """
    sink = Sink(_writing_to(fds[0]), arguments["compression"])
    writer = Writer(sink.write)
    left, right = mounts_of(arguments["left"]), mounts_of(arguments["right"])
    plan = changes_of(left, right) if _overlay_is_plain() else None
    if plan is not None:
        upper, lowers, prefix = plan
        with _opened(upper) as root, overlay.Lowers(lowers, prefix) as below:
            collect(root, below, writer, arguments["epoch_ns"], prefix)
    else:
        with _both_mounted(left, right, arguments["scratch"]) as (old, new):
            compare(old, new, writer, arguments["epoch_ns"])
    sink.close()
    return {
        "digest": sink.digest,
        "size": sink.size,
        "packed_digest": sink.packed_digest,
        "packed_size": sink.packed_size,
    }


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


def changes_of(left: Sequence[Mount], right: Sequence[Mount]) -> tuple[str, list[str], str] | None:
    """(directory, lowers, xattr prefix) if the top directory of `right` is all that it has over `left`."""
    old, new = _layers_of(left), _layers_of(right)
    if old is None or new is None or not new or new[1:] != old:
        return None
    prefix = overlay.XATTR_PREFIXES[any("userxattr" in mount.options for mount in right)]
    return new[0], new[1:], prefix


def _layers_of(mounts: Sequence[Mount]) -> list[str] | None:
    """The directories that an overlay or bind mount shows, topmost first; None if it is neither."""
    if not mounts:
        return []
    only = mounts[0]
    if len(mounts) > 1 or only.target:
        return None
    if only.type == "bind" or {"bind", "rbind"} & set(only.options):
        return [only.source]
    if only.type != "overlay":
        return None
    options = dict(option.partition("=")[::2] for option in only.options)
    upper = [options["upperdir"]] if options.get("upperdir") else []
    return upper + _split_lowers(options.get("lowerdir", ""))


def _overlay_is_plain() -> bool:
    """Whether upper directories hold all that they show: no renamed directories or data left in lower layers."""
    for feature in ("redirect_dir", "metacopy"):
        try:
            with open(f"/sys/module/overlay/parameters/{feature}") as file:
                if file.read().strip() not in ("N", "0"):
                    return False
        except FileNotFoundError:
            continue
    return True


@contextmanager
def _both_mounted(
    left: Sequence[Mount], right: Sequence[Mount], scratch: str
) -> Iterator[tuple[int | None, int]]:
    enter_private_namespace()
    mount("tmpfs", scratch, "tmpfs")
    for name, mounts in (("left", left), ("right", right)):
        os.mkdir(f"{scratch}/{name}")
        _mount(mounts, f"{scratch}/{name}")
    with _opened(f"{scratch}/left") as old, _opened(f"{scratch}/right") as new:
        yield old, new


def _writing_to(fd: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    return write


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
    _mount(mounts, scratch)
    return scratch


def _mount(mounts: Sequence[Mount], place: str) -> None:
    try:
        mount_all(mounts, place)
    except OSError as error:
        # The place is ours and says nothing to a client.
        what = ", ".join(each.source for each in mounts)
        number = error.errno or 0
        raise OSError(number, f"failed to mount {what}: {os.strerror(number).lower()}") from None


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
