"""What an activation has to do, as data: which mounts are made by us, which are left to the client, and with what.

A mount's type may carry prefixes, each a transformation before the mount:

    format/T   source, target and options are templates, see below
    mkdir/T    make directories: option X-containerd.mkdir.path=PATH[:MODE[:UID[:GID]]]
    mkfs/T     make a file system in the file `source`, if there is no file: options
               X-containerd.mkfs.fs=ext4|ext3|ext2|xfs  X-containerd.mkfs.size=BYTES (also with k, m, g)

Type ``loop`` is a file as a block device. Templates speak of earlier mounts by
their place: ``{{ mount 0 }}`` is where it is mounted (of a loop: its device),
``{{ source 0 }}`` and ``{{ target 0 }}`` are its fields, and ``{{ overlay 2 0 }}``
joins the mount points from 2 to 0 as overlayfs wants its lower directories.

What a later mount refers to must be mounted before: so much is *active*, made
by us. The rest is returned, transformed, for the client to mount (*system*).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from longshore.api import errors
from longshore.linux.mounts import Mount

LOOP: Final = "loop"
_PREFIXES: Final = ("format", "mkdir", "mkfs")
_OPTION: Final = "X-containerd."
_TEMPLATE: Final = re.compile(r"\{\{(.*?)\}\}")
_CALL: Final = re.compile(r"\s*(mount|source|target|overlay)\s+(\d{1,4})(?:\s+(\d{1,4}))?\s*")
_SIZE: Final = re.compile(r"(\d{1,15})([kmgKMG]?)(?:i?[bB])?")
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
SYSTEMS: Final = frozenset(("ext2", "ext3", "ext4", "xfs"))


class Folder(NamedTuple):
    """`mode` in octal, as chmod has it; -1 for ids that stay."""

    path: str
    mode: int = 0o755
    uid: int = -1
    gid: int = -1


class FileSystem(NamedTuple):
    """To be made in a new file of `size` bytes."""

    path: str
    kind: str
    size: int


class Planned(NamedTuple):
    """One mount of the list without its prefixes, and what they ask for."""

    mount: Mount
    formatted: bool
    folders: tuple[Folder, ...]
    system: FileSystem | None

    @property
    def plain(self) -> bool:
        """Nothing that a client couldn't mount by itself."""
        return not (self.formatted or self.folders or self.system) and self.mount[0] != LOOP


class Plan(NamedTuple):
    """The first `active` mounts are ours to make."""

    mounts: tuple[Planned, ...]
    active: int


class Place(NamedTuple):
    """Where an earlier mount is: what templates see."""

    mount: Mount
    point: str


def plan(mounts: Sequence[Mount], *, everything: bool = False) -> Plan:
    """With `everything` all are ours. Raises InvalidArgument for a prefix, an option or a template that makes no
    sense, Unimplemented when there is nothing for us to do."""
    planned = tuple(_planned(mount) for mount in mounts)
    if not planned or (all(each.plain for each in planned) and not everything):
        raise errors.Unimplemented("none of the mounts needs to be activated: not implemented")
    active = len(planned) if everything else 0
    for place, each in enumerate(planned):
        if each.mount[0] == LOOP:
            active = max(active, place + 1)
        for needed in _needed(each) if each.formatted else ():
            if needed >= place:
                raise errors.InvalidArgument(
                    f"mount {place} refers to mount {needed}, which does not come before it: invalid argument"
                )
            active = max(active, needed + 1)
    return Plan(planned, active)


def _planned(mount: Mount) -> Planned:
    kind, source, options, target = mount
    *prefixes, kind = kind.split("/")
    if unknown := set(prefixes) - set(_PREFIXES):
        raise errors.InvalidArgument(f"unknown mount type prefix {min(unknown)}/: invalid argument")
    ours = [option for option in options if option.startswith(_OPTION)]
    rest = tuple(option for option in options if not option.startswith(_OPTION))
    values = [option.removeprefix(_OPTION).partition("=") for option in ours]
    if not prefixes:
        return Planned(Mount(kind, source, options, target), False, (), None)
    folders = [_folder(value) for key, _, value in values if key == "mkdir.path"]
    return Planned(
        Mount(kind, source, rest, target),
        "format" in prefixes,
        tuple(folders) if "mkdir" in prefixes else (),
        _file_system(source, {key: value for key, _, value in values}) if "mkfs" in prefixes else None,
    )


def _folder(text: str) -> Folder:
    path, *numbers = text.split(":")
    try:
        mode, uid, gid = [*numbers, *["755", "-1", "-1"][len(numbers) :]]
        folder = Folder(path, int(mode, 8), int(uid), int(gid))
    except ValueError:
        raise errors.InvalidArgument(f"X-containerd.mkdir.path={text}: invalid argument") from None
    if not path.startswith(("/", "{{")) or not 0 <= folder.mode <= 0o7777:
        raise errors.InvalidArgument(f"X-containerd.mkdir.path={text}: invalid argument")
    return folder


def _file_system(source: str, given: dict[str, str]) -> FileSystem:
    kind, size = given.get("mkfs.fs", "ext4"), _SIZE.fullmatch(given.get("mkfs.size", ""))
    if kind not in SYSTEMS:
        raise errors.InvalidArgument(f"X-containerd.mkfs.fs={kind}: not supported: invalid argument")
    if size is None:
        raise errors.InvalidArgument("mkfs needs X-containerd.mkfs.size: invalid argument")
    return FileSystem(source, kind, int(size[1]) * _UNITS[size[2].lower()])


# -- templates ----------------------------------------------------------------------------------------------


def _needed(planned: Planned) -> list[int]:
    """Places of the mounts that must be mounted for its templates."""
    _, source, options, target = planned.mount
    texts = [source, target, *options, *(folder.path for folder in planned.folders)]
    calls = [_parsed(found) for text in texts for found in _TEMPLATE.findall(text)]
    return [max(numbers) for _, *numbers in calls]


def _parsed(text: str) -> tuple[str, int, int]:
    found = _CALL.fullmatch(text)
    if found is None or (found[1] == "overlay") != (found[3] is not None):
        raise errors.InvalidArgument(f"cannot format {{{{{text}}}}}: invalid argument")
    return found[1], int(found[2]), int(found[3] or found[2])


def formatted(planned: Planned, before: Sequence[Place]) -> Planned:
    """With its templates filled in."""
    if not planned.formatted:
        return planned

    def fill(text: str) -> str:
        return _TEMPLATE.sub(lambda found: _value(_parsed(found[1]), before), text)

    kind, source, options, target = planned.mount
    return planned._replace(
        mount=Mount(kind, fill(source), map(fill, options), fill(target)),
        folders=tuple(folder._replace(path=fill(folder.path)) for folder in planned.folders),
        system=planned.system and planned.system._replace(path=fill(planned.system.path)),
    )


def _value(call: tuple[str, int, int], before: Sequence[Place]) -> str:
    word, first, last = call
    match word:
        case "mount":
            return before[first].point
        case "source":
            return before[first].mount[1]
        case "target":
            return before[first].mount[3]
        case _:
            step = 1 if first <= last else -1
            return ":".join(before[place].point for place in range(first, last + step, step))
