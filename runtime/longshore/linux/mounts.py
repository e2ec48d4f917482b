"""Mounts: the kernel's flags, both mount interfaces, option strings, and lists of containerd mounts."""

from __future__ import annotations

import os
from _operator import itemgetter  # `operator` is a file to be searched and read

from longshore.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_POSIXACL = 1 << 16
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x00
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_PAGE = 4096
_EINVAL = 22
_EBUSY = 16
_ENOENT = 2


def mount(
    source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    """mount(2); the OSError names the target."""
    libc.call(
        "mount", libc.text(source), libc.text(target), libc.text(fstype), flags, libc.text(data), path=target
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    libc.call("umount2", libc.text(target), flags, path=target)


def open_tree(path: str, *, clone: bool = True, recursive: bool = False, dirfd: int = libc.AT_FDCWD) -> int:
    """An fd of the mount at ``path`` ("" with a dirfd: at that fd); cloned, it is detached: a private bind mount."""
    flags = OPEN_TREE_CLOEXEC | (OPEN_TREE_CLONE if clone else 0) | (libc.AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= libc.AT_EMPTY_PATH
    return libc.call("open_tree", dirfd, libc.text(path), flags, path=path)


def move_mount(mount_fd: int, target: str = "", *, target_fd: int = libc.AT_FDCWD) -> None:
    """Attach a detached mount at ``target``, or at the place ``target_fd`` is open on."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    libc.call("move_mount", mount_fd, b"", target_fd, libc.text(target), flags, path=target)


def mount_setattr(
    fd: int,
    *,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns: int = 0,
    recursive: bool = False,
    path: str = "",
) -> None:
    """Change the attributes of the mount(s) at ``fd``; MOUNT_ATTR_IDMAP takes ``userns``."""
    attributes = b"".join(word.to_bytes(8, "little") for word in (set, clear, propagation, userns))
    flags = (0 if path else libc.AT_EMPTY_PATH) | (libc.AT_RECURSIVE if recursive else 0)
    libc.call("mount_setattr", fd, libc.text(path), flags, attributes, len(attributes), path=path)


def fsopen(fstype: str) -> int:
    """A configuration context of a filesystem type."""
    return libc.call("fsopen", libc.text(fstype), FSOPEN_CLOEXEC, path=fstype)


def fsconfig(context: int, key: str, value: str | None = None) -> None:
    """Set an option of the context: a string, or a flag when ``value`` is None."""
    command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
    libc.call("fsconfig", context, command, libc.text(key), libc.text(value), 0, path=value or key)


def fsmount(context: int, attributes: int = 0) -> int:
    """Create the filesystem configured in ``context``; its detached mount."""
    libc.call("fsconfig", context, FSCONFIG_CMD_CREATE, 0, 0, 0)
    return libc.call("fsmount", context, FSMOUNT_CLOEXEC, attributes)


def detached(fstype: str, options: Iterable[tuple[str, str | None]] = (), attributes: int = 0) -> int:
    """A new filesystem, mounted nowhere; the fd is its root."""
    context = fsopen(fstype)
    try:
        for key, value in options:
            fsconfig(context, key, value)
        return fsmount(context, attributes)
    finally:
        os.close(context)


# Option: (flags set, flags cleared).
_FLAGS = {
    "defaults": (0, 0),
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "suid": (0, MS_NOSUID),
    "nosuid": (MS_NOSUID, 0),
    "dev": (0, MS_NODEV),
    "nodev": (MS_NODEV, 0),
    "exec": (0, MS_NOEXEC),
    "noexec": (MS_NOEXEC, 0),
    "sync": (MS_SYNCHRONOUS, 0),
    "async": (0, MS_SYNCHRONOUS),
    "dirsync": (MS_DIRSYNC, 0),
    "mand": (MS_MANDLOCK, 0),
    "nomand": (0, MS_MANDLOCK),
    "silent": (MS_SILENT, 0),
    "loud": (0, MS_SILENT),
    "atime": (0, MS_NOATIME),
    "noatime": (MS_NOATIME, 0),
    "diratime": (0, MS_NODIRATIME),
    "nodiratime": (MS_NODIRATIME, 0),
    "relatime": (MS_RELATIME, 0),
    "norelatime": (0, MS_RELATIME),
    "strictatime": (MS_STRICTATIME, 0),
    "nostrictatime": (0, MS_STRICTATIME),
    "lazytime": (MS_LAZYTIME, 0),
    "nolazytime": (0, MS_LAZYTIME),
    "iversion": (MS_I_VERSION, 0),
    "noiversion": (0, MS_I_VERSION),
    "acl": (MS_POSIXACL, 0),
    "noacl": (0, MS_POSIXACL),
    "symfollow": (0, MS_NOSYMFOLLOW),
    "nosymfollow": (MS_NOSYMFOLLOW, 0),
    "bind": (MS_BIND, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "remount": (MS_REMOUNT, 0),
}

_PROPAGATION = {
    "private": MS_PRIVATE,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

# Option: (attributes set, attributes cleared), for the whole tree below the mount.
_RECURSIVE = {
    "rro": (MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, MOUNT_ATTR_RDONLY),
    "rnosuid": (MOUNT_ATTR_NOSUID, 0),
    "rsuid": (0, MOUNT_ATTR_NOSUID),
    "rnodev": (MOUNT_ATTR_NODEV, 0),
    "rdev": (0, MOUNT_ATTR_NODEV),
    "rnoexec": (MOUNT_ATTR_NOEXEC, 0),
    "rexec": (0, MOUNT_ATTR_NOEXEC),
    "rnodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "rdiratime": (0, MOUNT_ATTR_NODIRATIME),
    "rrelatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    "rnorelatime": (0, MOUNT_ATTR_ATIME),
    "rnoatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    "ratime": (0, MOUNT_ATTR_ATIME),
    "rstrictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    "rnostrictatime": (0, MOUNT_ATTR_ATIME),
    "rnosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rsymfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}

OPTION_NAMES = tuple(sorted([*_FLAGS, *_PROPAGATION, *_RECURSIVE, "idmap", "ridmap", "tmpcopyup"]))


class Options:
    """What a list of mount options asks for.

    flags: MS_* to set; cleared: MS_* asked off; propagation: MS_SHARED..., each
    to be applied by a mount call of its own; data: the filesystem's own options;
    attributes_set/attributes_cleared: MOUNT_ATTR_* for the whole tree;
    copy_up: fill the tmpfs with what it covers; idmap: "", "idmap" or "ridmap".
    """

    __slots__ = (
        "attributes_cleared",
        "attributes_set",
        "cleared",
        "copy_up",
        "data",
        "flags",
        "idmap",
        "propagation",
    )

    def __init__(self) -> None:
        self.flags = 0
        self.cleared = 0
        self.propagation: list[int] = []
        self.data = ""
        self.attributes_set = 0
        self.attributes_cleared = 0
        self.copy_up = False
        self.idmap = ""


def parse_options(options: Sequence[str]) -> Options:
    """Sort mount options as mount(8) and the OCI specification name them; the last of two opposites wins."""
    parsed = Options()
    data = []
    for option in options:
        if option in _FLAGS:
            on, off = _FLAGS[option]
            parsed.flags = (parsed.flags | on) & ~off
            parsed.cleared = (parsed.cleared | off) & ~on
        elif option in _PROPAGATION:
            parsed.propagation.append(_PROPAGATION[option])
        elif option in _RECURSIVE:
            on, off = _RECURSIVE[option]
            parsed.attributes_set = (parsed.attributes_set & ~off) | on
            parsed.attributes_cleared = (parsed.attributes_cleared & ~on) | off
        elif option == "tmpcopyup":
            parsed.copy_up = True
        elif option in ("idmap", "ridmap"):
            parsed.idmap = option
        elif option:
            data.append(option)
    parsed.data = ",".join(data)
    return parsed


class Mount(tuple[str, str, tuple[str, ...], str]):
    """One mount as containerd lists them: type, source, options and a target below the common one."""

    __slots__ = ()

    def __new__(cls, type: str, source: str, options: Iterable[str] = (), target: str = "") -> Mount:
        return super().__new__(cls, (type, source, tuple(options), target))

    type: str = property(itemgetter(0))  # type: ignore[assignment]
    source: str = property(itemgetter(1))  # type: ignore[assignment]
    options: tuple[str, ...] = property(itemgetter(2))  # type: ignore[assignment]
    target: str = property(itemgetter(3))  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mount(type={self[0]!r}, source={self[1]!r}, options={self[2]!r}, target={self[3]!r})"


def mount_all(mounts: Sequence[Mount], target: str) -> None:
    """Mount a containerd mount list at ``target``; on failure unmount what was mounted and raise OSError."""
    done: list[str] = []
    try:
        for each in mounts:
            place = _place(target, each.target)
            if each.target:
                os.makedirs(place, exist_ok=True)
            _mount_one(each, place, done)
    except BaseException:
        for place in reversed(done):
            umount(place, MNT_DETACH | UMOUNT_NOFOLLOW)
        raise


def _place(target: str, below: str) -> str:
    if not below:
        return target
    place = os.path.realpath(f"{target}/{below}")
    if not place.startswith(os.path.realpath(target) + "/"):
        raise OSError(_EINVAL, "mount target leaves its root", below)
    return place


def _mount_one(each: Mount, place: str, done: list[str]) -> None:
    if "loop" in each.options:
        raise OSError(_EINVAL, "loop mounts are not supported", each.source)
    options = parse_options(each.options)
    if each.type == "overlay":
        _mount_overlay(each, options, place)
        done.append(place)
    elif options.flags & MS_BIND:
        mount(each.source, place, "bind", options.flags & (MS_BIND | MS_REC))
        done.append(place)
        rest = options.flags & ~(MS_BIND | MS_REC)
        if rest:
            mount(None, place, None, MS_BIND | MS_REMOUNT | rest | _locked_flags(place))
    else:
        mount(each.source, place, each.type, options.flags, options.data)
        done.append(place)
    for flags in options.propagation:
        mount(None, place, None, flags)
    if options.attributes_set or options.attributes_cleared:
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        try:
            mount_setattr(fd, set=options.attributes_set, clear=options.attributes_cleared, recursive=True)
        finally:
            os.close(fd)


_STATVFS = {1: MS_RDONLY, 2: MS_NOSUID, 4: MS_NODEV, 8: MS_NOEXEC}


def _locked_flags(place: str) -> int:
    """Flags the mount has already and which a remount must repeat (a user namespace locks them)."""
    flags = os.statvfs(place).f_flag
    return sum(ms for st, ms in _STATVFS.items() if flags & st and ms != MS_RDONLY)


def _mount_overlay(each: Mount, options: Options, place: str) -> None:
    """Overlay by mount(2) while its one page of options suffices, else layer by layer.

    The page holds some 40 layers of a usual root; ``lowerdir+`` (Linux 6.5) has
    no such limit and no trouble with colons and commas in paths.
    """
    if len(options.data) < _PAGE - 1 and "\\" not in options.data:
        mount(each.source or "overlay", place, "overlay", options.flags, options.data)
        return
    try:
        fd = _overlay_by_layers(each.source or "overlay", options)
    except OSError as error:
        if error.errno not in (_EINVAL, 38):
            raise
        _overlay_relative(each.source or "overlay", options, place)
        return
    try:
        move_mount(fd, place)
    finally:
        os.close(fd)


_ATTRIBUTES = {
    MS_RDONLY: MOUNT_ATTR_RDONLY,
    MS_NOSUID: MOUNT_ATTR_NOSUID,
    MS_NODEV: MOUNT_ATTR_NODEV,
    MS_NOEXEC: MOUNT_ATTR_NOEXEC,
    MS_NOATIME: MOUNT_ATTR_NOATIME,
    MS_STRICTATIME: MOUNT_ATTR_STRICTATIME,
    MS_NODIRATIME: MOUNT_ATTR_NODIRATIME,
    MS_NOSYMFOLLOW: MOUNT_ATTR_NOSYMFOLLOW,
}


def attributes_of(flags: int) -> int:
    """The MOUNT_ATTR_* of the new mount interface for MS_* flags."""
    return sum(attribute for ms, attribute in _ATTRIBUTES.items() if flags & ms)


def split_data(data: str) -> list[tuple[str, str | None]]:
    """``a=b,c`` as [("a", "b"), ("c", None)]."""
    pairs: list[tuple[str, str | None]] = []
    for word in data.split(","):
        if word:
            key, equals, value = word.partition("=")
            pairs.append((key, value if equals else None))
    return pairs


def _overlay_by_layers(source: str, options: Options) -> int:
    settings: list[tuple[str, str | None]] = [("source", source)]
    for key, value in split_data(options.data):
        if key == "lowerdir" and value is not None:
            settings += [("lowerdir+", lower) for lower in value.split(":")]
        else:
            settings.append((key, value))
    return detached("overlay", settings, attributes_of(options.flags))


def _overlay_relative(source: str, options: Options, place: str) -> None:
    """Name the layers relative to the directory they share: fits about four times as many on a page."""
    pairs = split_data(options.data)
    lowers = next((value or "" for key, value in pairs if key == "lowerdir"), "").split(":")
    common = os.path.commonpath(lowers)
    shortened = ":".join(os.path.relpath(lower, common) for lower in lowers)
    data = ",".join(
        f"lowerdir={shortened}" if key == "lowerdir" else key if value is None else f"{key}={value}"
        for key, value in pairs
    )
    if len(data) >= _PAGE - 1:
        raise OSError(7, f"{len(lowers)} layers don't fit into the mount options on this kernel", place)
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(common)
        mount(source, os.path.abspath(place), "overlay", options.flags, data)
    finally:
        os.fchdir(before)
        os.close(before)


def unmount_all(target: str) -> None:
    """Unmount everything stacked at ``target`` (a busy one is detached); nothing mounted, or no target, is fine."""
    while True:
        try:
            umount(target, UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (_EINVAL, _ENOENT):
                return
            if error.errno != _EBUSY:
                raise
            umount(target, UMOUNT_NOFOLLOW | MNT_DETACH)


class mounted:
    """``with mounted(mounts, target):`` the list is mounted inside the block and gone after it."""

    def __init__(self, mounts: Sequence[Mount], target: str) -> None:
        self._mounts = mounts
        self._target = target

    def __enter__(self) -> str:
        mount_all(self._mounts, self._target)
        return self._target

    def __exit__(self, *_: object) -> None:
        unmount_all(self._target)


def parse_mountinfo(data: bytes) -> list[tuple[int, int, str, str, str, str, str]]:
    """Lines of /proc/PID/mountinfo: (id, parent, root, mount point, options, type, superblock options)."""
    entries = []
    for line in data.decode(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        root, point = _unescape(fields[3]), _unescape(fields[4])
        entries.append((int(fields[0]), int(fields[1]), root, point, fields[5], tail[0], tail[-1]))
    return entries


def _unescape(word: str) -> str:
    if "\\" not in word:
        return word
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word
