"""Which places of the host a container sees: `--volumes-from`, `-v`, `--mount` and the image's volumes, resolved.

`plan` is pure. `resolve` makes volumes and folders, and tells their paths.
"""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from longshore.api.errors import InvalidArgument, NotFound
from longshore.client.spec import PROPAGATIONS
from longshore.dockerd.engine import VolumeSource
from longshore.dockerd.errors import ServerError
from longshore.dockerd.records import BindOptions, ContainerConfig, HostConfig, MountPoint, MountSpec
from longshore.dockerd.spec import subpaths
from longshore.dockerd.spec.settings import Peer, no_peers

ANONYMOUS: Final = "com.docker.volume.anonymous"
_LABELS: Final = frozenset("zZ")
_COPYING: Final = {"copy": True, "nocopy": False}
_CONSISTENCIES: Final = frozenset(("consistent", "cached", "delegated", "default"))


class Mode(NamedTuple):
    """The third part of a bind, read."""

    text: str = ""
    writable: bool = True
    propagation: str = ""
    copy: bool | None = None


def plan(config: ContainerConfig, host: HostConfig, peer: Peer = no_peers) -> list[MountPoint]:
    """Every mount point, without the paths of volumes. Raises InvalidArgument with the original's words.

    What stands later wins over a peer's volumes; two wishes for one place are
    an error; an image's volume only stands where nothing else does.
    """
    borrowed = {point.target: point for text in host.volumes_from or () for point in _borrowed(text, peer)}
    own: dict[str, MountPoint] = {}
    taken = {_destination(target) for target in host.tmpfs or ()}
    points = [parse_bind(text, host.volume_driver) for text in host.binds or ()]
    points += [of_mount(mount) for mount in host.mounts or ()]
    for point in points:
        if point.target in own or point.target in taken:
            raise InvalidArgument(f"Duplicate mount point: {point.target}")
        own[point.target] = point
    merged = borrowed | own
    for target in config.volumes or ():
        place = _destination(target, f"invalid volume specification: '{target}'")
        if place not in merged and place not in taken:
            merged[place] = _volume(place, driver=host.volume_driver)
    return list(merged.values())


def parse_bind(text: str, driver: str = "") -> MountPoint:
    """``/host:/place[:mode]``, ``name:/place[:mode]`` or ``/place[:mode]``."""
    wrong = f"invalid volume specification: '{text}'"
    parts = text.split(":")
    if len(parts) > 3 or "" in parts:
        raise InvalidArgument(wrong)
    if len(parts) == 1 or (len(parts) == 2 and _is_mode(parts[1])):
        parts = ["", *parts]
    source, target = parts[:2]
    mode = _mode(parts[2]) if len(parts) == 3 else Mode()
    kind = "bind" if source.startswith("/") else "volume"
    config = f'{wrong}: invalid mount config for type "{kind}"'
    if mode.propagation and kind == "volume":
        raise InvalidArgument(f"{config}: field BindOptions must not be specified")
    place = _destination(target, config)
    if source.startswith("/"):
        return MountPoint(
            type="bind",
            target=place,
            source=posixpath.normpath(source),
            writable=mode.writable,
            mode=mode.text,
            propagation=mode.propagation or "rprivate",
        )
    point = _volume(place, source, driver)
    copy = True if mode.copy is None else mode.copy
    return msgspec.structs.replace(point, writable=mode.writable, mode=mode.text or "z", copy_up=copy)


def _volume(target: str, name: str = "", driver: str = "") -> MountPoint:
    return MountPoint(
        type="volume",
        target=target,
        name=name or secrets.token_hex(32),
        driver=driver or "local",
        copy_up=True,
        anonymous=not name,
    )


def _clean(path: str) -> str:
    return posixpath.normpath(path)


def _destination(path: str, wrong: str = "") -> str:
    before = f"{wrong}: " if wrong else ""
    if not path.startswith("/"):
        raise InvalidArgument(f"{before}invalid mount path: '{path}' mount path must be absolute")
    cleaned = "/" + _clean(path).strip("/")
    if cleaned == "/":
        raise InvalidArgument(f"{before}invalid specification: destination can't be '/'")
    return cleaned


def _is_mode(text: str) -> bool:
    try:
        _mode(text)
    except InvalidArgument:
        return False
    return True


def _mode(text: str) -> Mode:
    """Each kind of word at most once."""
    wrong = InvalidArgument(f"invalid mode: {text}")
    mode, seen = Mode(text), set[str]()
    for word in text.split(","):
        kind, changed = _word(word, mode)
        if not kind or kind in seen:
            raise wrong
        seen.add(kind)
        mode = changed
    return mode


def _word(word: str, mode: Mode) -> tuple[str, Mode]:
    """(kind, the mode with it); kind "" for an unknown word."""
    if word in ("rw", "ro"):
        return "access", mode._replace(writable=word == "rw")
    if word in _LABELS:
        return "label", mode
    if word in PROPAGATIONS and "unbindable" not in word:
        return "propagation", mode._replace(propagation=word)
    if word in _COPYING:
        return "copy", mode._replace(copy=_COPYING[word])
    return ("consistency" if word in _CONSISTENCIES else ""), mode


def _borrowed(text: str, peer: Peer) -> list[MountPoint]:
    """Of `--volumes-from name[:mode]`."""
    name, _, word = text.partition(":")
    if not name:
        raise InvalidArgument("volumes-from specification cannot be an empty string")
    if word not in ("", "ro", "rw", "z", "Z"):
        raise InvalidArgument(f"invalid mode: {word}")
    try:
        lender = peer(name)
    except NotFound as error:
        # NotFound of a create means its image, and makes clients pull it.
        raise InvalidArgument(error.message) from error
    return [
        msgspec.structs.replace(
            point, writable=point.writable and word != "ro", copy_up=False, anonymous=False
        )
        for point in lender.mounts
    ]


def of_mount(mount: MountSpec) -> MountPoint:
    """Of `--mount`."""
    wrong = f'invalid mount config for type "{mount.type}"'
    if mount.type not in _KINDS:
        raise InvalidArgument(f"{wrong}: mount type unknown")
    if not mount.target:
        raise InvalidArgument(f"{wrong}: field Target must not be empty")
    target = _destination(mount.target, wrong)
    for kind, (member, field) in _KINDS.items():
        if kind != mount.type and getattr(mount, member) is not None:
            raise InvalidArgument(f"{wrong}: field {field} must not be specified")
    return _MAKERS[mount.type](mount, target, wrong)


_KINDS: Final = {
    "bind": ("bind_options", "BindOptions"),
    "volume": ("volume_options", "VolumeOptions"),
    "tmpfs": ("tmpfs_options", "TmpfsOptions"),
}


def _of_bind(mount: MountSpec, target: str, wrong: str) -> MountPoint:
    options = mount.bind_options or BindOptions()
    if not mount.source:
        raise InvalidArgument(f"{wrong}: field Source must not be empty")
    if not mount.source.startswith("/"):
        raise InvalidArgument(f"{wrong}: invalid mount path: '{mount.source}' mount path must be absolute")
    if options.propagation and options.propagation not in PROPAGATIONS:
        raise InvalidArgument(f"{wrong}: invalid propagation mode: {options.propagation}")
    if not options.create_mountpoint and not os.path.exists(mount.source):
        raise InvalidArgument(f"{wrong}: bind source path does not exist: {mount.source}")
    return MountPoint(
        type="bind",
        target=target,
        source=_clean(mount.source),
        writable=not mount.read_only,
        propagation=options.propagation or "rprivate",
        spec=mount,
    )


def _of_volume(mount: MountSpec, target: str, wrong: str) -> MountPoint:
    options = mount.volume_options
    if mount.source.startswith("/"):
        raise InvalidArgument(
            f"{wrong}: invalid mount path: '{mount.source}' mount path must be a name, not a folder"
        )
    subpaths.check(mount, wrong)
    driver = options.driver_config.name if options and options.driver_config else ""
    point = _volume(target, mount.source, driver)
    return msgspec.structs.replace(
        point,
        writable=not mount.read_only,
        mode="z",
        copy_up=not (options and (options.no_copy or options.subpath)),
        spec=mount,
    )


def _of_tmpfs(mount: MountSpec, target: str, wrong: str) -> MountPoint:
    if mount.source:
        raise InvalidArgument(f"{wrong}: field Source must not be specified")
    if mount.tmpfs_options and mount.tmpfs_options.size_bytes < 0:
        raise InvalidArgument(f"{wrong}: size must not be negative")
    return MountPoint(type="tmpfs", target=target, writable=not mount.read_only, spec=mount)


_MAKERS: Final = {"bind": _of_bind, "volume": _of_volume, "tmpfs": _of_tmpfs}


async def resolve(points: Sequence[MountPoint], container: str, volumes: VolumeSource) -> list[MountPoint]:
    """The points with the paths of their volumes, each of which counts the container as a user; folders that `-v`
    names are made. Also at each start: a volume may be mounted by its use. On failure what was taken is released.
    """
    done: list[MountPoint] = []
    try:
        for point in points:
            done.append(await _resolved(point, container, volumes))
    except BaseException:
        for point in done:
            if point.type == "volume":
                await volumes.release(point.name, container)
        raise
    return done


async def _resolved(point: MountPoint, container: str, volumes: VolumeSource) -> MountPoint:
    if point.type == "volume":
        options = point.spec.volume_options if point.spec else None
        driver = options.driver_config if options else None
        labels = {ANONYMOUS: ""} if point.anonymous else options.labels if options else None
        wishes = driver.options if driver else None
        path = await volumes.use(point.name, container, point.driver, wishes, labels)
        return msgspec.structs.replace(point, source=path)
    if point.type == "bind":
        _make_folder(point)
    return point


def prepare(found: Sequence[MountPoint]) -> None:
    """Before each start: make the folders that `-v` names and that are gone, and check what is to propagate.

    Raises InvalidArgument, ServerError.
    """
    for point in found:
        if point.type == "bind":
            _make_folder(point)
            _check_propagation(point)


def _check_propagation(point: MountPoint) -> None:
    """A mount can only be shared, or a slave, where the host's own is."""
    if point.propagation.lstrip("r") not in _ASKED:
        return
    place, peers = _mount_of(os.path.realpath(point.source))
    known, words = _ASKED[point.propagation.lstrip("r")]
    if not any(word.startswith(known) for word in peers):
        raise ServerError(f"path {point.source} is mounted on {place} but it is not a {words} mount")


_ASKED: Final = {"shared": (("shared:",), "shared"), "slave": (("shared:", "master:"), "shared or slave")}


def _mount_of(path: str) -> tuple[str, list[str]]:
    """(mount point, optional fields) of the mount that shows `path` here: of those that fit the longest, the last."""
    best, fields = "/", list[str]()
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            words = line.partition(" - ")[0].split(" ")
            place = (
                words[4].encode("latin-1", "replace").decode("unicode_escape")
                if "\\" in words[4]
                else words[4]
            )
            inside = place == "/" or path == place or path.startswith(place + "/")
            if inside and len(place) >= len(best):
                best, fields = place, words[6:]
    return best, fields


def _make_folder(point: MountPoint) -> None:
    """`-v` makes what is missing on the host; `--mount` has refused it, unless told to."""
    wanted = point.spec is None or (point.spec.bind_options or BindOptions()).create_mountpoint
    if os.path.exists(point.source) or not wanted:
        return
    try:
        os.makedirs(point.source, mode=0o755, exist_ok=True)
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise InvalidArgument(
            f"error while creating mount source path '{point.source}': mkdir {point.source}: {why}"
        ) from error
