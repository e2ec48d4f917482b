"""The root of a container as one directory descriptor: of its processes, or of its snapshot mounted for us alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any

from longshore.layers import worker
from longshore.linux import files
from longshore.linux.mounts import MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT, Mount, mount, mount_all

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def of_process(pid: int, id: str) -> int | None:
    """What the container's first process sees, its mounts included; None if that is no longer its process.

    The descriptor leads into the container's mounts; we stay outside of them.
    """
    try:
        root = os.open(f"/proc/{pid}/root", _DIRECTORY)
        cgroups = files.read_bounded(f"/proc/{pid}/cgroup").decode()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The number may be another's by now, but not in the container's cgroup.
    if id in cgroups:
        return root
    os.close(root)
    return None


def of_snapshot(rows: Sequence[Sequence[Any]], scratch: str, binds: Sequence[Sequence[Any]]) -> int:
    """The snapshot, with (source, subpath, place, writable) bound on it, in this process's own mount namespace."""
    worker.enter_private_namespace()
    place = worker.mounted_at(worker.mounts_of(rows), scratch)
    if place != scratch:
        mount(place, scratch, None, MS_BIND)
    root = os.open(scratch, _DIRECTORY)
    for source, subpath, target, writable in binds:
        _bind(root, source, target, writable, subpath)
    return root


def of_layers(rows: Sequence[Sequence[Any]], scratch: str) -> int:
    """The snapshot alone, read-only: also while its container runs, since its upper directory becomes a lower one."""
    worker.enter_private_namespace()
    mount_all([readonly(each) for each in worker.mounts_of(rows)], scratch)
    return os.open(scratch, _DIRECTORY)


def readonly(each: Mount) -> Mount:
    """An overlay without its upper directory, which two mounts must not share."""
    if each.type != "overlay":
        return Mount(
            each.type, each.source, (*(word for word in each.options if word != "rw"), "ro"), each.target
        )
    options = dict(word.partition("=")[::2] for word in each.options)
    upper, lowers = options.get("upperdir"), options.get("lowerdir", "")
    kept = [
        word for word in each.options if word.partition("=")[0] not in ("upperdir", "workdir", "lowerdir")
    ]
    if not upper:
        return each
    stacked = ":".join(part for part in (upper.replace(":", "\\:"), lowers) if part)
    if not lowers:
        return Mount("bind", upper, ("rbind", "ro"), each.target)
    return Mount(each.type, each.source, (*kept, f"lowerdir={stacked}"), each.target)


def _bind(root: int, source: str, target: str, writable: bool, subpath: str = "") -> None:
    """One of the container's mounts at its place, which is made where it is missing, as the runtime would."""
    try:
        shown = os.open(source, os.O_PATH | os.O_CLOEXEC)
        if subpath:
            whole, shown = shown, files.open_in_root(shown, subpath, os.O_PATH)
            os.close(whole)
    except FileNotFoundError:
        return
    place = _place(root, target, directory=stat.S_ISDIR(os.fstat(shown).st_mode))
    mount(f"/proc/self/fd/{shown}", f"/proc/self/fd/{place}", None, MS_BIND | MS_REC)
    os.close(shown)
    os.close(place)
    if writable:
        return
    place = files.open_in_root(root, target, os.O_PATH)
    mount(None, f"/proc/self/fd/{place}", None, MS_BIND | MS_REMOUNT | MS_RDONLY)
    os.close(place)


def _place(root: int, target: str, *, directory: bool) -> int:
    if directory:
        return files.mkdir_in_root(root, target)
    try:
        return files.open_in_root(root, target, os.O_PATH)
    except FileNotFoundError:
        parent, _, name = target.rpartition("/")
        folder = files.mkdir_in_root(root, parent or "/")
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder))
        os.close(folder)
        return files.open_in_root(root, target, os.O_PATH)


def root_of(arguments: dict[str, Any]) -> int:
    """`pid` and `id` of a running container, else `mounts`, `scratch` and `binds` of a stopped one.

    Raises ProcessLookupError if the container isn't what the arguments say.
    """
    if arguments.get("pid"):
        root = of_process(arguments["pid"], arguments["id"])
        if root is None:
            raise ProcessLookupError(3, "container has ended", arguments["id"])
        return root
    return of_snapshot(arguments["mounts"], arguments["scratch"], arguments["binds"])


def rows_of(mounts: Iterable[Any]) -> list[list[Any]]:
    """containerd's mounts as they travel to a worker."""
    return [[each.type, each.source, list(each.options), each.target] for each in mounts]
