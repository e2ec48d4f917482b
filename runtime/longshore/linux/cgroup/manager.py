"""One container's cgroup: the directories of all its controllers, made, filled, read and removed together.

The controllers are modules of their own (cpu, memory, ...), each a list of
(file, value) for its resources and a function for its statistics; `limits` and
`figures` name them, and are loaded by those who set or ask: most verbs do neither.
"""

from __future__ import annotations

import os
import time

from longshore.linux import files
from longshore.linux.cgroup import freezer, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from longshore.linux.cgroup import layout

# Directories above the container's own that we made bear this mark, and go when they are empty.
MARK = "trusted.longshore"

_ENODEV = 19
_EBUSY = 16
_FORBIDDEN = (1, 13, 30)  # EPERM, EACCES, EROFS
_ENOTEMPTY = 39
_RACES = 100  # lost against others that remove the parent we need


class Cgroup:
    """paths: controller -> directory; in v2 the only key is ""."""

    def __init__(self, paths: dict[str, str], version: int) -> None:
        self.paths = paths
        self.version = version

    @classmethod
    def of(cls, where: layout.Layout, wanted: str) -> Cgroup:
        """The cgroup ``wanted`` (absolute, or relative to our own) in every hierarchy of this host."""
        if where.version == 2:
            return cls({"": where.path("", wanted)}, 2)
        names = where.controllers()
        if where.hybrid:
            names.append("")
        return cls({name: where.path(name, wanted) for name in names}, 1)

    # Life

    def create(self, *, lenient: bool = False) -> None:
        """Make the directories; what was made is removed again on failure.

        ``lenient``: controllers that this user may not use are left out of `paths`.
        """
        made: list[str] = []
        try:
            for path in dict.fromkeys(self.paths.values()):
                try:
                    self._make(path, made)
                except OSError as error:
                    if not lenient or error.errno not in _FORBIDDEN:
                        raise
                    self.paths = {name: each for name, each in self.paths.items() if each != path}
            if self.version == 1 and "cpuset" in self.paths:
                self._inherit_cpuset(self.paths["cpuset"])
        except BaseException:
            for path in reversed(made):
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    pass  # a parent that another container found empty
            raise

    def _make(self, path: str, made: list[str]) -> None:
        """Make `path` with its parents, which another container may be removing at the same time."""
        for _ in range(_RACES):
            try:
                self._make_missing(path, made)
                return
            except FileNotFoundError:
                continue  # a parent that was there went between our look and our mkdir
        self._make_missing(path, made)

    def _make_missing(self, path: str, made: list[str]) -> None:
        missing: list[str] = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for each in reversed(missing):
            if self.version == 2:
                enable_controllers(os.path.dirname(each))
            try:
                os.mkdir(each, 0o755)
            except FileExistsError:
                continue  # another container under the same parent was faster
            made.append(each)
            if each != missing[0]:
                _mark(each)

    def _inherit_cpuset(self, path: str) -> None:
        from longshore.linux.cgroup import cpuset

        chain = []
        while path and os.path.exists(path + "/cpuset.cpus") and cpuset.is_empty(path):
            chain.append(path)
            path = os.path.dirname(path)
        for each in reversed(chain):
            cpuset.inherit(each)

    def exists(self) -> bool:
        """Whether one of the directories is there."""
        return any(os.path.isdir(path) for path in self.paths.values())

    def entrances(self) -> list[int]:
        """Descriptors through which a single-threaded process joins by writing "0" (see `enter`).

        Writing to v1's ``tasks`` about oneself spares the kernel a global lock that
        the usual ``cgroup.procs`` by the parent takes once per hierarchy. The v2
        hierarchy has no such door: be born there (see `birthplace`).
        """
        fds: list[int] = []
        try:
            for path in dict.fromkeys(path for name, path in self.paths.items() if name):
                fds.append(os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC))
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def birthplace(self) -> int:
        """A descriptor of the v2 directory for `namespaces.clone`, to be closed by the caller; -1 if there is none."""
        if "" not in self.paths:
            return -1
        return os.open(self.paths[""], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def add(self, pid: int) -> None:
        """Move a process (all of its threads) in."""
        for path in dict.fromkeys(self.paths.values()):
            files.write_file(path + "/cgroup.procs", str(pid))

    def delete(self, patience: float = 10.0) -> None:
        """Remove the directories with those that the container made below, then our own empty parents.

        Waits up to ``patience`` seconds for ending processes; raises OSError (EBUSY) after.
        """
        unique = list(dict.fromkeys(self.paths.values()))
        deadline = time.monotonic() + patience
        for path in unique:
            _remove_tree(path, deadline)
        for path in unique:
            _remove_marked_parents(os.path.dirname(path))

    def delete_empty(self) -> bool:
        """`delete` without waiting for anything; False if a directory is in use: `delete` can do the rest."""
        unique = [self._any(), *self.paths.values()]
        for path in dict.fromkeys(filter(None, unique)):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in (_EBUSY, _ENOTEMPTY):
                    return False
                raise
        for path in dict.fromkeys(self.paths.values()):
            _remove_marked_parents(os.path.dirname(path))
        return True

    # Limits

    def apply(self, resources: dict[str, Any], *, device_rules: bool = True) -> None:
        """Set the limits given (and only those)."""
        from longshore.linux.cgroup import limits

        if self.version == 2:
            limits.apply_v2(self.paths.get("", ""), resources, device_rules)
        else:
            limits.apply_v1(self.paths, resources, device_rules)

    # Processes

    def _any(self) -> str:
        """One of the directories; "" when there is none (a user's container, where no cgroup could be made)."""
        return self.paths.get("devices") or next(iter(self.paths.values()), "")

    def procs(self, *, recursive: bool = True) -> list[int]:
        """The pids inside, without duplicates; [] when the cgroup is gone."""
        found: dict[int, None] = {}
        for directory, below, _ in os.walk(self._any()):
            try:
                data = files.read_bounded(directory + "/cgroup.procs", 16 << 20)
            except OSError:
                continue
            found.update((int(word), None) for word in data.split())
            if not recursive:
                below.clear()
        return sorted(found)

    def kill(self, signal: int) -> None:
        """Signal every process inside. SIGKILL repeats until none is left that could have forked meanwhile."""
        path = self._any()
        if self.version == 2 and signal == 9 and os.path.exists(path + "/cgroup.kill"):
            files.write_file(path + "/cgroup.kill", "1")
            return
        for _ in range(100 if signal == 9 else 1):
            alive = self.procs()
            for pid in alive:
                try:
                    os.kill(pid, signal)
                except ProcessLookupError:
                    pass
            if not alive or signal != 9 or set(self.procs()) <= set(alive):
                return

    def freezer(self) -> str:
        """The directory of the freezer; OSError (ENODEV) if there is none."""
        path = self.paths.get("" if self.version == 2 else "freezer")
        if path is None:
            raise OSError(_ENODEV, "cgroup controller freezer is not mounted")
        return path

    def frozen(self) -> bool:
        """Whether the processes are stopped."""
        path = self.paths.get("" if self.version == 2 else "freezer")
        return path is not None and freezer.frozen(path, self.version)

    def freeze(self) -> None:
        """Stop all processes."""
        freezer.freeze(self.freezer(), self.version)

    def thaw(self) -> None:
        """Let them go on."""
        freezer.thaw(self.freezer(), self.version)

    # Figures

    def stats(self) -> dict[str, Any]:
        """The figures of ``runc events --stats`` (bytes, nanoseconds)."""
        from longshore.linux.cgroup import figures

        if not self.paths:
            raise OSError(_ENODEV, "the container has no cgroup")
        return figures.stats(self.paths, self.version)

    def oom_kills(self) -> int:
        """How many processes the OOM killer has ended here."""
        from longshore.linux.cgroup import memory

        path = self.paths.get("" if self.version == 2 else "memory")
        return memory.oom_kills(path, self.version) if path else 0

    def oom_event(self) -> int:
        """An eventfd that becomes readable at an out-of-memory event, and when the cgroup is removed (v1)."""
        if self.version == 2:
            raise OSError(95, "cgroup v2 reports out-of-memory by inotify on memory.events")
        path = self.paths.get("memory")
        if path is None:
            raise OSError(_ENODEV, "cgroup controller memory is not mounted")
        event = files.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(path + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.write_file(path + "/cgroup.event_control", f"{event} {control}")
            finally:
                os.close(control)
        except BaseException:
            os.close(event)
            raise
        return event


def enter(fds: list[int]) -> None:
    """Join the cgroups behind `Cgroup.entrances`; closes the descriptors. The caller has one thread."""
    for fd in fds:
        os.write(fd, b"0")
        os.close(fd)


def unified_mount(cgroup: Cgroup) -> str:
    """Where the v2 hierarchy of this cgroup is mounted."""
    path = cgroup.paths[""]
    while os.path.exists(f"{os.path.dirname(path)}/cgroup.procs"):
        path = os.path.dirname(path)
    return path


def enable_controllers(path: str) -> None:
    """Make all controllers that a v2 cgroup has available to its children."""
    available = values.text(path + "/cgroup.controllers").split()
    enabled = set(values.text(path + "/cgroup.subtree_control").split())
    missing = [name for name in available if name not in enabled]
    if not missing:
        return
    try:
        files.write_file(path + "/cgroup.subtree_control", " ".join("+" + name for name in missing))
    except OSError:
        # Some can't be (a process lives there, cpu with real-time tasks): one by one, what can.
        for name in missing:
            try:
                files.write_file(path + "/cgroup.subtree_control", "+" + name)
            except OSError:
                pass


def _mark(path: str) -> None:
    try:
        os.setxattr(path, MARK, b"1")
    except OSError:
        pass  # a tree without xattrs (tests, old kernels): then the parent stays


def _remove_tree(path: str, deadline: float) -> None:
    for directory, _, _ in os.walk(path, topdown=False):
        pause = 0.001
        while True:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError as error:
                # Ended processes leave their cgroup a moment after they are reaped.
                if error.errno == _EBUSY and time.monotonic() < deadline:
                    time.sleep(pause)
                    pause = min(pause * 2, 0.1)
                    continue
                raise
            break


def _remove_marked_parents(path: str) -> None:
    while True:
        try:
            os.getxattr(path, MARK)
            os.rmdir(path)
        except OSError:
            return  # foreign, in use or gone already
        path = os.path.dirname(path)
