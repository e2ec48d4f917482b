"""The container's file system, as a plan: small steps which the runtime opens and the container's process runs.

`open` sees the host: what a step binds from there becomes a detached copy of
the mount with all its attributes set. The container's process does that just
before `run` (so that mountinfo lists mounts in the order of the plan); but where
a user namespace takes its eyes, the runtime does it before the fork. `run`
touches nothing by path but through a descriptor of the new root, with
RESOLVE_IN_ROOT: a link in the image leads nowhere else. `describe` is what
``--debug`` prints.
"""

from __future__ import annotations

import os
import stat

from longshore.linux import files, libc, mounts
from longshore.oci import log
from longshore.oci.errors import InvalidConfig, StartFailed, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from longshore.linux.cgroup.layout import Layout
    from longshore.linux.cgroup.manager import Cgroup

PROC_MAGIC = 0x9FA0
_ENOTDIR = 20
_TMPFS_ATTRIBUTES = mounts.MOUNT_ATTR_NOEXEC | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV

# Mounts inside /proc are refused, but for files that only show figures (lxcfs puts its own there).
_PROC_ALLOWED = frozenset(
    "/proc/" + name
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    )
)

# Superblock flags that fsconfig knows by name.
_SUPERBLOCK = (
    (mounts.MS_RDONLY, "ro"),
    (mounts.MS_SYNCHRONOUS, "sync"),
    (mounts.MS_DIRSYNC, "dirsync"),
    (mounts.MS_MANDLOCK, "mand"),
    (mounts.MS_LAZYTIME, "lazytime"),
)


class Step:
    """One thing to do to the root file system."""

    fds: Sequence[int] = ()

    def describe(self) -> str:
        """One line for ``--debug``."""
        raise NotImplementedError

    # Whether only the runtime can open it.
    early = False

    def open(self) -> None:
        """Open what comes from the host; the descriptors go into ``fds``."""

    def run(self, root: int) -> None:
        """Container side; ``root`` is a descriptor of the new root."""
        raise NotImplementedError

    def open_here(self) -> None:
        """Container side: open it now, for the order's sake; if we may not, what the runtime opened will do."""
        if self.early:
            return
        opened, self.fds = self.fds, ()
        try:
            self.open()
        except (OSError, StartFailed):
            if not opened:
                raise
            self.fds = opened
            return
        for fd in opened:
            os.close(fd)


def attributes(options: mounts.Options) -> tuple[int, int]:
    """(set, clear) for mount_setattr of the flags among ``options``."""
    on = mounts.attributes_of(options.flags)
    off = mounts.attributes_of(options.cleared) & ~mounts.MOUNT_ATTR_ATIME
    atime = mounts.MS_NOATIME | mounts.MS_STRICTATIME | mounts.MS_RELATIME
    if options.flags & atime:
        off |= mounts.MOUNT_ATTR_ATIME
    return on, off


class BindMount(Step):
    """A directory or file of the host, with attributes and propagation of its own."""

    def __init__(
        self, source: str, destination: str, options: mounts.Options, *, slave: bool = True, userns: int = -1
    ) -> None:
        self.source = source
        self.destination = destination
        self.options = options
        self.slave = slave
        self.userns = userns
        self.early = userns >= 0

    def describe(self) -> str:
        return f"bind {self.source} to {self.destination} flags={self.options.flags:#x}"

    def open(self) -> None:
        recursive = bool(self.options.flags & mounts.MS_REC)
        try:
            fd = mounts.open_tree(self.source, recursive=recursive)
        except FileNotFoundError:
            reason = f"stat {self.source}: no such file or directory"
            raise StartFailed(
                f'error mounting "{self.source}" to rootfs at "{self.destination}": {reason}'
            ) from None
        except OSError as error:
            raise _mount_error(self.source, self.destination, error) from None
        self.fds = (fd,)
        try:
            self._set_attributes(fd)
        except OSError as error:
            raise _mount_error(self.source, self.destination, error) from None
        self.directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        self.of_proc = files.filesystem_type(fd) == PROC_MAGIC

    def _set_attributes(self, fd: int) -> None:
        options = self.options
        if self.slave:
            mounts.mount_setattr(fd, propagation=mounts.MS_SLAVE, recursive=True)
        if options.idmap:
            recursive = options.idmap == "ridmap"
            mounts.mount_setattr(fd, set=mounts.MOUNT_ATTR_IDMAP, userns=self.userns, recursive=recursive)
        on, off = attributes(options)
        if on or off:
            mounts.mount_setattr(fd, set=on, clear=off)
        if options.attributes_set or options.attributes_cleared:
            on, off = options.attributes_set, options.attributes_cleared
            mounts.mount_setattr(fd, set=on, clear=off, recursive=True)
        for flags in options.propagation:
            mounts.mount_setattr(
                fd, propagation=flags & ~mounts.MS_REC, recursive=bool(flags & mounts.MS_REC)
            )

    def run(self, root: int) -> None:
        check_inside(self.source, self.destination)
        self.open_here()
        target = place(root, self.destination, directory=self.directory)
        try:
            check_proc(target, self.source, self.destination, of_proc=self.of_proc)
            if stat.S_ISDIR(os.fstat(target).st_mode) != self.directory:
                # The kernel's "invalid argument" helps nobody; dockerd looks for these words.
                raise _mount_error(self.source, self.destination, OSError(_ENOTDIR, "not a directory"))
            mounts.move_mount(self.fds[0], target_fd=target)
        finally:
            os.close(target)
        os.close(self.fds[0])


class _OfFileSystem(Step):
    """What an entry of `mounts` says of a file system."""

    def __init__(self, fstype: str, source: str, destination: str, options: mounts.Options) -> None:
        self.fstype = fstype
        self.source = source
        self.destination = destination
        self.options = options


class Remount(_OfFileSystem):
    """Other options for a mount that is there: its own attributes (``bind``), or those of its file system."""

    def describe(self) -> str:
        return f"remount {self.destination} flags={self.options.flags:#x} data={self.options.data}"

    def run(self, root: int) -> None:
        try:
            target = files.open_in_root(root, self.destination, os.O_PATH)
            try:
                self._change(target)
            finally:
                os.close(target)
        except OSError as error:
            raise _mount_error(self.source or self.fstype, self.destination, error) from None

    def _change(self, target: int) -> None:
        options = self.options
        if options.flags & mounts.MS_BIND:
            on, off = attributes(options)
            mounts.mount_setattr(target, set=on, clear=off, recursive=bool(options.flags & mounts.MS_REC))
            return
        # mount(2) takes no descriptor, and the container's /proc/self/fd is nothing to trust.
        before = os.open(".", os.O_PATH | os.O_CLOEXEC)
        try:
            os.fchdir(target)
            mounts.mount(self.source, ".", self.fstype, options.flags, options.data)
        finally:
            os.fchdir(before)
            os.close(before)


class FilesystemMount(_OfFileSystem):
    """A new file system: tmpfs, proc, sysfs, devpts, mqueue, ..."""

    def describe(self) -> str:
        options = self.options
        return f"mount {self.fstype} at {self.destination} flags={options.flags:#x} data={options.data}"

    def run(self, root: int) -> None:
        check_inside(self.source, self.destination)
        existed = _exists(root, self.destination)
        target = place(root, self.destination, directory=True, plain=self.fstype in ("proc", "sysfs"))
        try:
            check_proc(target, self.source, self.destination, of_proc=self.fstype == "proc")
            settings = [("source", self.source or self.fstype), *mounts.split_data(self.options.data)]
            try:
                fd = self._create(settings)
            except OSError as error:
                raise _mount_error(self.source or self.fstype, self.destination, error) from None
            if self.fstype == "tmpfs" and existed and not any(key == "mode" for key, _ in settings):
                _copy_mode(target, fd)
            if self.options.copy_up:
                copy_tree(target, fd)
            if (
                self.fstype == "tmpfs"
                and self.options.flags & mounts.MS_RDONLY
                and self.destination != "/dev"
            ):
                mounts.mount_setattr(fd, set=mounts.MOUNT_ATTR_RDONLY)
            mounts.move_mount(fd, target_fd=target)
        finally:
            os.close(target)
        if self.options.attributes_set or self.options.attributes_cleared:
            on, off = self.options.attributes_set, self.options.attributes_cleared
            mounts.mount_setattr(fd, set=on, clear=off, recursive=True)
        for flags in self.options.propagation:
            mounts.mount_setattr(
                fd, propagation=flags & ~mounts.MS_REC, recursive=bool(flags & mounts.MS_REC)
            )
        os.close(fd)

    def _create(self, settings: list[tuple[str, str | None]]) -> int:
        flags = self.options.flags
        if self.fstype == "tmpfs":
            # Nodes are made in /dev, and a copy put into others, before they may become read-only.
            flags &= ~mounts.MS_RDONLY
        settings += [(name, None) for flag, name in _SUPERBLOCK if flags & flag]
        return mounts.detached(self.fstype, settings, mounts.attributes_of(flags))


def _copy_mode(source: int, mount: int) -> None:
    """A tmpfs over a directory of the image keeps that directory's mode; as an option it would show in mountinfo."""
    top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    try:
        os.fchmod(top, stat.S_IMODE(os.fstat(source).st_mode))
    finally:
        os.close(top)


class CgroupMount(Step):
    """v1: a tmpfs with each controller below it; v2: the one hierarchy. The container sees its own part."""

    def __init__(
        self, destination: str, options: mounts.Options, layout: Layout, cgroup: Cgroup, *, private: bool
    ) -> None:
        self.destination = destination
        self.options = options
        self.layout = layout
        self.cgroup = cgroup
        self.private = private

    def describe(self) -> str:
        how = "new mounts in the cgroup namespace" if self.private else "bind mounts"
        return f"cgroup v{self.layout.version} at {self.destination} ({how})"

    def _names(self) -> list[str]:
        return [
            name
            for name in self.layout.mounts
            # An ordinary user's container may have no cgroup of its own; a namespace still shows where it is.
            if (self.private or name in self.cgroup.paths) and (name or self.layout.version == 2)
        ]

    def open(self) -> None:
        if self.private:
            return
        on, off = attributes(self.options)
        opened = []
        for name in self._names():
            fd = mounts.open_tree(self.cgroup.paths[name])
            opened.append(fd)
            self.fds = tuple(opened)
            mounts.mount_setattr(fd, propagation=mounts.MS_SLAVE)
            mounts.mount_setattr(fd, set=on, clear=off)

    def run(self, root: int) -> None:
        if self.layout.version == 2:
            self.open_here()
            fd = self.fds[0] if self.fds else self._create("cgroup2", [])
            self._attach(root, self.destination, fd)
            return
        flags = self.options.flags & ~mounts.MS_RDONLY
        settings: list[tuple[str, str | None]] = [("source", "tmpfs"), ("mode", "755")]
        top = mounts.detached("tmpfs", settings, mounts.attributes_of(flags))
        target = place(root, self.destination, directory=True)
        mounts.move_mount(top, target_fd=target)
        os.close(target)
        self.open_here()
        done: dict[str, str] = {}
        for index, name in enumerate(self._names()):
            point = os.path.basename(self.layout.mounts[name])
            if point not in done:
                data = name.split(",") if name != "name=systemd" else ["none", "name=systemd", "xattr"]
                source = "systemd" if name == "name=systemd" else "cgroup"
                fd = self.fds[index] if self.fds else self._create("cgroup", data, source)
                self._attach(root, f"{self.destination}/{point}", fd)
            done[point] = name
            if point != name and not name.startswith("name="):
                try:
                    os.symlink(point, name, dir_fd=top)
                except FileExistsError:
                    pass
        # "ro" is for the controllers; the tmpfs that holds them stays writable under runc, too.
        os.close(top)

    def _create(self, fstype: str, words: list[str], source: str = "cgroup") -> int:
        settings: list[tuple[str, str | None]] = [("source", source)]
        for word in words:
            key, equals, value = word.partition("=")
            settings.append((key, value if equals else None))
        return mounts.detached(fstype, settings, mounts.attributes_of(self.options.flags))

    def _attach(self, root: int, destination: str, fd: int) -> None:
        target = place(root, destination, directory=True)
        try:
            mounts.move_mount(fd, target_fd=target)
        finally:
            os.close(target)
        os.close(fd)


_NODES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class Device(Step):
    """A device node; bound from the host where nodes can't be made (user namespaces)."""

    def __init__(
        self,
        path: str,
        kind: str,
        number: int,
        mode: int,
        owner: tuple[int, int],
        *,
        bind: bool,
        asked: bool = True,
    ) -> None:
        self.path = path
        self.kind = kind
        self.number = number
        self.mode = mode
        self.owner = owner
        self.bind = bind
        self.asked = asked  # by the configuration: then it must be this one

    def describe(self) -> str:
        how = "bind" if self.bind else "make"
        return f"{how} {self.kind} {os.major(self.number)}:{os.minor(self.number)} {self.path} {self.mode:o}"

    def open(self) -> None:
        if self.bind:
            fd = mounts.open_tree(self.path)
            self.fds = (fd,)
            mounts.mount_setattr(fd, propagation=mounts.MS_SLAVE)

    def run(self, root: int) -> None:
        if self.bind:
            self.open_here()
            target = place(root, self.path, directory=False)
            try:
                mounts.move_mount(self.fds[0], target_fd=target)
            finally:
                os.close(target)
            os.close(self.fds[0])
            return
        parent, _, name = self.path.rpartition("/")
        directory = files.mkdir_in_root(root, parent or "/")
        try:
            try:
                os.mknod(name, _NODES[self.kind] | self.mode, self.number, dir_fd=directory)
            except FileExistsError:
                if self.asked and not self._is_there(directory, name):
                    raise StartFailed(f"device {self.path}: another file is there already") from None
                return  # the image's or the mount's own
            os.chown(name, *self.owner, dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)

    def _is_there(self, directory: int, name: str) -> bool:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        same = stat.S_IFMT(info.st_mode) == _NODES[self.kind]
        return same and (self.kind == "p" or info.st_rdev == self.number)


class Link(Step):
    """A symbolic link that every /dev has."""

    def __init__(self, target: str, path: str, *, replace: bool = False) -> None:
        self.target = target
        self.path = path
        self.replace = replace

    def describe(self) -> str:
        return f"link {self.path} -> {self.target}"

    def run(self, root: int) -> None:
        parent, _, name = self.path.rpartition("/")
        directory = files.mkdir_in_root(root, parent or "/")
        try:
            if self.replace:
                try:
                    os.unlink(name, dir_fd=directory)
                except FileNotFoundError:
                    pass
            try:
                os.symlink(self.target, name, dir_fd=directory)
            except FileExistsError:
                pass
        finally:
            os.close(directory)


def _exists(root: int, path: str) -> bool:
    try:
        os.close(files.open_in_root(root, path, os.O_PATH))
    except OSError:
        return False
    return True


def _mount_error(source: str, destination: str, error: OSError) -> StartFailed:
    return StartFailed(f'error mounting "{source}" to rootfs at "{destination}": {explain(error)}')


def place(root: int, destination: str, *, directory: bool, plain: bool = False) -> int:
    """An O_PATH descriptor of a mount's target inside the root, made if missing. ``plain``: not through a link."""
    try:
        if directory:
            target = files.mkdir_in_root(root, destination)
            if plain:
                try:
                    again = files.open_in_root(root, destination, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
                except NotADirectoryError:
                    raise StartFailed(f'"{destination}" must be mounted on an ordinary directory') from None
                os.close(target)
                target = again
            return target
        return _place_file(root, destination)
    except OSError as error:
        raise StartFailed(f'creating mount target "{destination}": {explain(error)}') from None


def _place_file(root: int, destination: str) -> int:
    try:
        return files.open_in_root(root, destination, os.O_PATH)
    except FileNotFoundError:
        pass
    parent, _, name = destination.rpartition("/")
    directory = files.mkdir_in_root(root, parent or "/")
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(name, flags, 0o755, dir_fd=directory))
    except FileExistsError:
        # A dangling link (resolv.conf is one in many images): what it points at is made, inside the root.
        link = files.link_target(directory, name)
        if link is None:
            raise
        return _place_file(root, link if link.startswith("/") else f"{parent}/{link}")
    finally:
        os.close(directory)
    return files.open_in_root(root, destination, os.O_PATH)


def check_inside(source: str, destination: str) -> None:
    """Refuse what is inside /proc by its name already."""
    if destination.startswith("/proc/") and destination not in _PROC_ALLOWED:
        raise _refused(source, destination, "it is inside /proc")


def _refused(source: str, destination: str, why: str) -> StartFailed:
    problem = f'"{destination}" cannot be mounted because {why}'
    return StartFailed(f'error mounting "{source}" to rootfs at "{destination}": {problem}')


def check_proc(target: int, source: str, destination: str, *, of_proc: bool) -> None:
    """Refuse to mount something else over /proc, or anything inside it: what the runtime writes there must arrive.

    By descriptor, so that a link in the image which leads into /proc is seen.
    """
    if destination == "/proc" and not of_proc:
        raise _refused(source, destination, "it is not of type proc")
    if files.filesystem_type(target) != PROC_MAGIC or destination in _PROC_ALLOWED:
        return
    if os.fstat(target).st_ino == 1 and of_proc:
        return
    raise _refused(source, destination, "it is inside /proc")


def copy_tree(source: int, target: int) -> None:
    """Copy the contents of one directory into another, with owners, modes, times and xattrs (tmpcopyup)."""
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    try:
        for name in os.listdir(directory):
            _copy_entry(directory, name, target)
    finally:
        os.close(directory)


def _copy_entry(source: int, name: str, target: int) -> None:
    info = os.stat(name, dir_fd=source, follow_symlinks=False)
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISDIR(info.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        below, copy = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
        try:
            copy_tree(below, copy)
        finally:
            os.close(below)
            os.close(copy)
    elif stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISREG(info.st_mode):
        _copy_file(source, name, target)
    else:
        os.mknod(name, stat.S_IFMT(info.st_mode) | mode, info.st_rdev, dir_fd=target)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(name, mode, dir_fd=target)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, name: str, target: int) -> None:
    read = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    write = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
    try:
        while os.sendfile(write, read, None, 1 << 20):
            pass
        for attribute in os.listxattr(read):
            try:
                os.setxattr(write, attribute, os.getxattr(read, attribute))
            except OSError:
                pass  # tmpfs lacks some kinds
    finally:
        os.close(read)
        os.close(write)


# The plan.


def plan(
    config: dict[str, Any],
    bundle: str,
    layout: Layout,
    cgroup: Cgroup,
    *,
    userns: bool,
    private_cgroup: bool,
    idmap: Callable[[dict[str, Any]], int],
) -> list[Step]:
    """The steps between "a bare root" and "pivot", from config.json; nothing is touched yet."""
    linux = config.get("linux") or {}
    slave = linux.get("rootfsPropagation") not in ("shared", "rshared")
    steps: list[Step] = []
    setup_dev = True
    for entry in config.get("mounts") or ():
        step = _mount_step(
            entry, bundle, layout, cgroup, slave=slave, private_cgroup=private_cgroup, idmap=idmap
        )
        if isinstance(step, BindMount) and step.destination == "/dev":
            setup_dev = False
        steps.append(step)
    if setup_dev:
        steps += _devices(linux.get("devices") or (), bind=userns)
        steps += _links()
    return steps


def _mount_step(
    entry: dict[str, Any],
    bundle: str,
    layout: Layout,
    cgroup: Cgroup,
    *,
    slave: bool,
    private_cgroup: bool,
    idmap: Callable[[dict[str, Any]], int],
) -> Step:
    destination = entry.get("destination") or ""
    if not destination:
        raise InvalidConfig("mount destination not specified")
    if not destination.startswith("/"):
        # Accepted for old configurations; it means "from the root".
        log.write(
            "warning",
            f"mount destination {destination} is not absolute."
            " Support for non-absolute mount destinations will be removed in a future release.",
        )
    destination = os.path.normpath("/" + destination.lstrip("/"))
    if destination == "/":
        raise InvalidConfig("mount destination / is the root itself")
    options = mounts.parse_options(entry.get("options") or ())
    fstype, source = entry.get("type") or "", entry.get("source") or ""
    if options.flags & mounts.MS_REMOUNT:
        return Remount(fstype, source, destination, options)
    if fstype == "bind" and not options.flags & mounts.MS_BIND:
        options.flags |= mounts.MS_BIND
    if options.flags & mounts.MS_BIND:
        userns = -1
        if options.idmap or entry.get("uidMappings"):
            options.idmap = options.idmap or "idmap"
            userns = idmap(entry)
        return BindMount(os.path.join(bundle, source), destination, options, slave=slave, userns=userns)
    if fstype == "cgroup":
        return CgroupMount(destination, options, layout, cgroup, private=private_cgroup)
    if not fstype:
        raise InvalidConfig(f'mount "{destination}" has neither a type nor a bind option')
    return FilesystemMount(fstype, source, destination, options)


_DEFAULT_DEVICES = (
    ("null", 1, 3),
    ("random", 1, 8),
    ("full", 1, 7),
    ("tty", 5, 0),
    ("zero", 1, 5),
    ("urandom", 1, 9),
)


def _devices(configured: Sequence[dict[str, Any]], *, bind: bool) -> list[Step]:
    made: dict[str, Step] = {}
    for device in configured:
        path = os.path.normpath("/" + (device.get("path") or "").lstrip("/"))
        kind = device.get("type") or ""
        if kind not in ("c", "b", "u", "p"):
            raise InvalidConfig(f'invalid device type "{kind}" of {path}')
        mode = device.get("fileMode")
        number = _device_number(path, device.get("major") or 0, device.get("minor") or 0)
        owner = (device.get("uid") or 0, device.get("gid") or 0)
        mode = 0o666 if mode is None else mode & 0o7777
        made.setdefault(path, Device(path, kind, number, mode, owner, bind=bind and kind != "p"))
    for name, major, minor in _DEFAULT_DEVICES:
        path = f"/dev/{name}"
        if path not in made:
            number = os.makedev(major, minor)
            made[path] = Device(path, "c", number, 0o666, (0, 0), bind=bind, asked=False)
    # /dev/ptmx and /dev/console belong to the container's devpts and terminal.
    return [step for path, step in made.items() if path not in ("/dev/ptmx", "/dev/console")]


def _device_number(path: str, major: int, minor: int) -> int:
    # The kernel's dev_t: 12 bits and 20.
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise InvalidConfig(f"device {path}: there is no device {major}:{minor}")
    return os.makedev(major, minor)


def _links() -> list[Step]:
    links: list[Step] = [
        Link("pts/ptmx", "/dev/ptmx", replace=True),
        Link("/proc/self/fd", "/dev/fd"),
        Link("/proc/self/fd/0", "/dev/stdin"),
        Link("/proc/self/fd/1", "/dev/stdout"),
        Link("/proc/self/fd/2", "/dev/stderr"),
    ]
    if os.path.exists("/proc/kcore"):
        links.append(Link("/proc/kcore", "/dev/core"))
    return links


def open_early(steps: Sequence[Step], *, all: bool) -> None:
    """Runtime side: open the steps that only the runtime can open, or all; closed again on failure."""
    try:
        for step in steps:
            if all or step.early:
                step.open()
    except BaseException:
        close_all(steps)
        raise


def close_all(steps: Sequence[Step]) -> None:
    """Close the runtime's copies of what `open_early` opened."""
    for step in steps:
        for fd in step.fds:
            os.close(fd)
        step.fds = ()


# In the container's mount namespace.

_PROPAGATION = {
    "": mounts.MS_SLAVE | mounts.MS_REC,
    "private": mounts.MS_PRIVATE,
    "rprivate": mounts.MS_PRIVATE | mounts.MS_REC,
    "slave": mounts.MS_SLAVE,
    "rslave": mounts.MS_SLAVE | mounts.MS_REC,
    "shared": mounts.MS_SHARED,
    "rshared": mounts.MS_SHARED | mounts.MS_REC,
    "unbindable": mounts.MS_UNBINDABLE,
    "runbindable": mounts.MS_UNBINDABLE | mounts.MS_REC,
}


def propagation(name: str) -> int:
    """The mount flags of linux.rootfsPropagation."""
    if name not in _PROPAGATION:
        raise InvalidConfig(f"rootfsPropagation={name} is not supported")
    return _PROPAGATION[name]


def open_root(rootfs: str, flags: int) -> int:
    """A detached copy of the root file system's mount(s), ready to be attached."""
    fd = mounts.open_tree(rootfs, recursive=True)
    try:
        if not flags & mounts.MS_SHARED:
            mounts.mount_setattr(fd, propagation=mounts.MS_SLAVE, recursive=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def attach_root(root: int, rootfs: str, flags: int) -> int:
    """Cut the new namespace off the host's mounts and put the root in its place; its descriptor.

    ``root`` is one that the runtime opened, for when we may not (-1: it didn't).
    """
    mounts.mount(None, "/", None, flags)
    if flags & mounts.MS_SHARED:
        _parent_private(rootfs)
    try:
        root = open_root(rootfs, flags)
    except PermissionError:
        if root < 0:
            raise
    try:
        mounts.move_mount(root, rootfs)
    except PermissionError:
        # The way to it is closed to the container's root user: any other place is as good.
        mounts.move_mount(root, "/")
    return root


def _parent_private(rootfs: str) -> None:
    """pivot_root refuses a root whose parent mount is shared."""
    path = rootfs
    while True:
        try:
            mounts.mount(None, path, None, mounts.MS_PRIVATE)
            return
        except OSError as error:
            if error.errno != 22 or path == "/":
                raise
        path = os.path.dirname(path)


def pivot(root: int) -> None:
    """Make ``root`` the root directory and let go of the old one."""
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(root)
    libc.call("pivot_root", b".", b".", path="rootfs")
    os.fchdir(old)
    os.close(old)
    # Slave, not private: unmounting must not propagate to the host, yet leave no busy copies of its mounts.
    mounts.mount(None, ".", None, mounts.MS_SLAVE | mounts.MS_REC)
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")


def move_root(root: int) -> None:
    """The same by MS_MOVE, for a host whose root can't be pivoted (a ramdisk)."""
    info = mounts.parse_mountinfo(files.read_bounded("/proc/self/mountinfo", 8 << 20))
    inside = os.readlink(f"/proc/self/fd/{root}")
    for _, _, _, point, _, fstype, _ in reversed(info):
        # A procfs or sysfs of the host would stay reachable below the new root's parent.
        if fstype in ("proc", "sysfs") and not (point + "/").startswith(inside + "/"):
            mounts.mount(None, point, None, mounts.MS_PRIVATE | mounts.MS_REC)
            try:
                mounts.umount(point, mounts.MNT_DETACH)
            except OSError as error:
                if error.errno not in (22, 1):
                    raise
                mounts.mount("tmpfs", point, "tmpfs", 0, "size=0k")
    os.fchdir(root)
    mounts.mount(".", "/", None, mounts.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def change_root(root: int) -> None:
    """Only chroot: for containers without a mount namespace."""
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")


def finish_dev(config: dict[str, Any]) -> None:
    """After the nodes are made: a /dev that was asked read-only becomes so."""
    for entry in config.get("mounts") or ():
        if os.path.normpath(entry.get("destination") or "") == "/dev" and "ro" in (
            entry.get("options") or ()
        ):
            fd = os.open("/dev", os.O_PATH | os.O_CLOEXEC)
            try:
                mounts.mount_setattr(fd, set=mounts.MOUNT_ATTR_RDONLY)
            finally:
                os.close(fd)


def make_readonly(root: int, path: str) -> None:
    """Bind a path onto itself, read-only; a missing one is fine."""
    try:
        target = files.open_in_root(root, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fd = mounts.open_tree("", dirfd=target, recursive=True)
        try:
            mounts.mount_setattr(fd, set=mounts.MOUNT_ATTR_RDONLY)
            mounts.move_mount(fd, target_fd=target)
        finally:
            os.close(fd)
    finally:
        os.close(target)


class Masks:
    """Covers paths: files with the container's /dev/null, checked to be that; directories with an empty tmpfs."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._null = -1

    def cover(self, path: str) -> None:
        """Mask one path; a missing one is fine."""
        try:
            target = files.open_in_root(self._root, path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode):
                settings: list[tuple[str, str | None]] = [("source", "tmpfs"), ("ro", None)]
                fd = mounts.detached("tmpfs", settings, mounts.MOUNT_ATTR_RDONLY)
            else:
                fd = mounts.open_tree("", dirfd=self._verified_null())
            try:
                mounts.move_mount(fd, target_fd=target)
            finally:
                os.close(fd)
        finally:
            os.close(target)

    def _verified_null(self) -> int:
        if self._null < 0:
            fd = files.open_in_root(self._root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
            info = os.fstat(fd)
            if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(1, 3):
                os.close(fd)
                raise StartFailed("can't mask paths: the container's /dev/null is not the null device")
            self._null = fd
        return self._null

    def close(self) -> None:
        """Give back what was opened."""
        if self._null >= 0:
            os.close(self._null)
            self._null = -1
