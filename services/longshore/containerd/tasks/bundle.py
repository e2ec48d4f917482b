"""The bundle: the directory through which daemon, shim and runtime share one container.

Layout, modes and file names are containerd's, so that a Go shim finds what it
expects and a Go daemon could take the directory over:

    <state>/io.containerd.runtime.v2.task/<namespace>/<id>/     0700
        config.json        the spec, byte for byte as the client gave it
        rootfs/            0711, where the shim mounts the root file system
        work               symlink to <root>/io.containerd.runtime.v2.task/<namespace>/<id>
        log                FIFO, what the shim has to say
        shim-binary-path   the program that serves this bundle
        bootstrap.json     how to reach it
        events             what our shim reported and we have not acknowledged

Everything here is plain blocking file work: callers run it in a thread.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from longshore.api.errors import AlreadyExists, FailedPrecondition
from longshore.containerd.tasks.bootstrap import Bootstrap, parse_json
from longshore.linux import mounts

PLUGIN_DIRECTORY = "io.containerd.runtime.v2.task"

CONFIG = "config.json"
ROOTFS = "rootfs"
WORK = "work"
LOG = "log"
SHIM_BINARY = "shim-binary-path"
BOOTSTRAP = "bootstrap.json"
LEGACY_ADDRESS = "address"
EVENTS = "events"


class Directories(NamedTuple):
    """Where bundles (on the state directory, gone after a boot) and work directories (kept) live."""

    state: str
    root: str

    @classmethod
    def below(cls, state: str, root: str) -> Directories:
        """The task plugin's own directories in the daemon's `state` and `root`."""
        return cls(os.path.join(state, PLUGIN_DIRECTORY), os.path.join(root, PLUGIN_DIRECTORY))

    def prepare(self) -> None:
        """Make both, 0711: others may pass through to what a container shares, not list it."""
        for directory in self:
            os.makedirs(directory, mode=0o711, exist_ok=True)
            os.chmod(directory, 0o711)

    def bundles(self) -> Iterator[Bundle]:
        """Every bundle directory; names that begin with a dot are half-removed ones."""
        for namespace in _directories(self.state):
            for id_ in _directories(os.path.join(self.state, namespace)):
                yield Bundle(self, namespace, id_)

    def sweep(self) -> list[str]:
        """Finish removals that a crash interrupted, and remove work directories without a bundle.

        Returns what could not be removed. For a start, before any Create.
        """
        problems = []
        for path in [*self._half_removed(), *self._orphaned_work()]:
            try:
                _remove_tree(path)
            except (OSError, FailedPrecondition) as error:
                problems.append(str(error))
        return problems

    def _half_removed(self) -> Iterator[str]:
        for top in self:
            for namespace in _directories(top):
                parent = os.path.join(top, namespace)
                yield from (os.path.join(parent, name) for name in os.listdir(parent) if name.startswith("."))

    def _orphaned_work(self) -> Iterator[str]:
        for namespace in _directories(self.root):
            for id_ in _directories(os.path.join(self.root, namespace)):
                bundle = Bundle(self, namespace, id_)
                if not os.path.isdir(bundle.path):
                    yield bundle.work_path


class Bundle(NamedTuple):
    """One container's bundle, existing or not."""

    directories: Directories
    namespace: str
    id: str

    @property
    def path(self) -> str:
        return os.path.join(self.directories.state, self.namespace, self.id)

    @property
    def work_path(self) -> str:
        return os.path.join(self.directories.root, self.namespace, self.id)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def create(self, spec: bytes) -> None:
        """Make the directories, write `spec` as config.json and make the log FIFO.

        Undoes itself when a step fails. Raises AlreadyExists if the bundle exists.
        """
        path, work = self.path, self.work_path
        _make_parent(os.path.dirname(path))
        _make_parent(os.path.dirname(work))
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            raise AlreadyExists(f"task {self.id}: already exists") from None
        try:
            _share_with_mapped_root(path, spec)
            os.mkdir(os.path.join(path, ROOTFS), 0o711)
            if os.path.lexists(work):  # its bundle was on a state directory that a reboot emptied
                _remove_atomically(work)
            os.mkdir(work, 0o711)
            os.symlink(work, os.path.join(path, WORK))
            _write(os.path.join(path, CONFIG), spec)
            os.mkfifo(os.path.join(path, LOG), 0o600)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Unmount the root file system, then remove bundle and work directory, each atomically.

        Nothing is removed while something stays mounted below: we would delete
        what is mounted. Raises FailedPrecondition then. Absent is fine.
        """
        self.release_rootfs()
        _remove_atomically(self.path)
        _remove_atomically(self.work_path)

    def release_rootfs(self) -> None:
        """Unmount what is mounted on rootfs/ and remove that directory.

        rmdir comes first: it succeeds for every container that ended properly,
        and spares us reading a mount table that is long on a busy host.
        """
        rootfs = self.file(ROOTFS)
        reason = _rmdir(rootfs)
        if reason == errno.EBUSY:
            mounts.unmount_all(rootfs)
            reason = _rmdir(rootfs)
        if reason == errno.ENOTEMPTY and not _mounted_below(rootfs):
            # Files of a root file system that was never mounted, only put here.
            _remove_tree(rootfs)
            reason = 0
        if reason:
            raise FailedPrecondition(f"remove bundle rootfs {rootfs}: {os.strerror(reason)}")

    def write_bootstrap(self, bootstrap: Bootstrap) -> None:
        """Record how to reach the shim: what the next daemon reads."""
        _write(self.file(BOOTSTRAP), json.dumps(bootstrap._asdict()).encode())

    def read_bootstrap(self) -> Bootstrap:
        """How to reach the shim. Raises OSError or InvalidArgument when nothing usable is recorded."""
        try:
            return parse_json(_read(self.file(BOOTSTRAP)))
        except FileNotFoundError:
            address = os.fsdecode(_read(self.file(LEGACY_ADDRESS))).strip()
            return Bootstrap(version=2, address=address, protocol="ttrpc")

    def write_shim_binary(self, path: str) -> None:
        _write(self.file(SHIM_BINARY), path.encode())

    def read_shim_binary(self) -> str:
        """The recorded shim program, "" when there is none: no file, or one that was damaged."""
        try:
            path = os.fsdecode(_read(self.file(SHIM_BINARY)))
        except FileNotFoundError:
            return ""
        return path if os.path.isabs(path) and "\0" not in path else ""

    def is_empty(self) -> bool:
        return not os.listdir(self.path)

    def recorded_pids(self) -> list[tuple[str, int]]:
        """(id, pid) by the ``<id>.pid`` files: processes that were started and not deleted. "" is init."""
        found = []
        for name in sorted(os.listdir(self.path)):
            id_ = name.removesuffix(".pid")
            if id_ in (name, "shim"):
                continue
            text = _read(self.file(name)).strip()
            if text.isdigit():
                found.append(("" if id_ == "init" else id_, int(text)))
        return found


class _Mapping(msgspec.Struct):
    containerID: int = 0
    hostID: int = 0
    size: int = 0


class _Linux(msgspec.Struct):
    gidMappings: list[_Mapping] | None = None


class _Spec(msgspec.Struct):
    linux: _Linux | None = None


def _share_with_mapped_root(path: str, spec: bytes) -> None:
    """Let root of the container's user namespace enter the bundle: its runtime pivots from there."""
    if b'"gidMappings"' not in spec:
        return
    try:
        linux = msgspec.json.decode(spec, type=_Spec).linux
    except msgspec.DecodeError:
        return  # the runtime refuses the spec with a better message
    for mapping in (linux.gidMappings if linux else None) or ():
        if mapping.containerID <= 0 < mapping.containerID + mapping.size:
            os.chown(path, -1, mapping.hostID - mapping.containerID)
            os.chmod(path, 0o710)
            return


def _make_parent(path: str) -> None:
    if not os.path.isdir(path):
        os.makedirs(path, mode=0o711, exist_ok=True)
        os.chmod(path, 0o711)


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _rmdir(path: str) -> int:
    """Remove an empty directory; 0, or the errno of why not. Absent counts as removed."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return 0
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _mounted_below(path: str) -> bool:
    prefix = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        points = (line.split(" ", 5)[4] for line in table)
        return any(point == prefix or point.startswith(prefix + "/") for point in points)


def _remove_atomically(path: str) -> None:
    """Rename to ``.<name>``, so that no one takes a half-removed directory for a whole one; then remove."""
    parent, name = os.path.split(path)
    hidden = os.path.join(parent, "." + name)
    if os.path.lexists(hidden):
        _remove_tree(hidden)
    try:
        os.rename(path, hidden)
    except FileNotFoundError:
        return
    _remove_tree(hidden)


def _remove_tree(path: str) -> None:
    """Remove a file or a tree, never descending into a mount.

    A bind mount has the device number of its source, so only the mount table
    tells. Bundles are flat and unlink(2) refuses mounted files: the table is
    read only for the rare tree with directories in it.
    """
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    with os.scandir(path) as entries:
        nested = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    if nested and _mounted_below(path):
        raise FailedPrecondition(f"remove {path}: something is mounted below")
    shutil.rmtree(path)
