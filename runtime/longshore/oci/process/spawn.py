"""Forking into namespaces.

The common case, only new namespaces, is one clone3. Namespaces joined by path,
a time namespace with offsets and everything around a joined user namespace need
a process in between: it joins, clones with CLONE_PARENT (so that the container's
process is our child, not its) and ends.
"""

from __future__ import annotations

import gc
import os
import sys

from longshore.linux import files, namespaces, processes
from longshore.oci.errors import InvalidConfig, StartFailed, explain
from longshore.oci.process import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Main = Callable[[], None]

_EPERM = 1
# Joined before anything is cloned, when a user namespace is in play; order matters to nobody else.
_ORDER = ("ipc", "uts", "network", "pid", "mount", "cgroup", "time")


class Namespaces:
    """new: types to create; joined: type -> descriptor of an existing one (opened, to be closed by `close`)."""

    def __init__(self, configured: Sequence[dict[str, Any]]) -> None:
        self.new: set[str] = set()
        self.joined: dict[str, int] = {}
        self.paths: dict[str, str] = {}
        try:
            for entry in configured:
                self._add(entry.get("type") or "", entry.get("path") or "")
        except BaseException:
            self.close()
            raise

    def _add(self, name: str, path: str) -> None:
        if name not in namespaces.TYPES:
            raise InvalidConfig(f'namespace {{"{name}" "{path}"}} does not exist')
        if name in self.new or name in self.joined:
            raise InvalidConfig(f'malformed spec file: duplicated ns {{"{name}" "{path}"}}')
        if not path:
            self.new.add(name)
            return
        try:
            self.joined[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise StartFailed(f"namespace path: open {path}: {reason}") from None
        self.paths[name] = path

    def __contains__(self, name: str) -> bool:
        return name in self.new or name in self.joined

    @property
    def clone_flags(self) -> int:
        """Flags of what clone3 makes.

        Not time (its offsets come first), and with a user namespace only that and
        pid: the others belong to the container's root user, who must exist first.
        """
        names = {"user", "pid"} if "user" in self.new else set(namespaces.TYPES) - {"cgroup", "time"}
        return self._flags(names)

    @property
    def late_flags(self) -> int:
        """Flags of what the process unshares itself; cgroup only when it has joined its cgroup."""
        return self._flags(set(namespaces.TYPES) - {"time"}) & ~self.clone_flags

    def _flags(self, names: set[str]) -> int:
        return sum(namespaces.TYPES[name][1] for name in self.new & names)

    @property
    def plain(self) -> bool:
        """Whether one clone3 does, and the rest is joined by the process itself."""
        user = "user" in self
        return "time" not in self and "pid" not in self.joined and not (user and self.joined)

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.joined.values():
            os.close(fd)
        self.joined = {}


def disarm() -> None:
    """First thing in a process that will enter a container: from here on no module can be imported.

    A container's root holds files of a stranger at paths where Python looks for
    its own; see design "the interpreter must not be a weapon".
    """
    gc.disable()
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []
    sys.path_importer_cache.clear()


def child(main: Main, channel: messages.Channel) -> None:
    """Run ``main`` as the life of a forked process: whatever happens, it never returns to the caller's frames."""
    try:
        disarm()
        main()
    except BaseException as error:
        try:
            channel.send(messages.FAILED, explain(error))
        except BaseException:
            pass
    finally:
        os._exit(1)


def spawn(
    wanted: Namespaces, channel: messages.Channel, main: Main, *, cgroup: int = -1, offsets: str = ""
) -> tuple[int, int]:
    """(pid, pidfd) of a new child that runs ``main`` in the namespaces; ``channel`` is the child's end."""
    if wanted.plain:
        pid, pidfd = namespaces.clone(wanted.clone_flags, cgroup=cgroup)
        if pid == 0:
            child(lambda: _enter(wanted, main), channel)
        return pid, pidfd
    # A user of the joined user namespace has no right to be born into the host's cgroup: see Launch._enrol.
    born_in = -1 if "user" in wanted.joined else cgroup
    return between(lambda: _gather(wanted, offsets), main, channel, flags=wanted.clone_flags, cgroup=born_in)


def _enter(wanted: Namespaces, main: Main) -> None:
    for name in wanted.joined:
        _join(wanted, name)
    main()


def _join(wanted: Namespaces, name: str) -> None:
    try:
        namespaces.setns(wanted.joined[name], namespaces.TYPES[name][1])
    except OSError as error:
        raise StartFailed(
            f"setns to {name} namespace {wanted.paths.get(name, '')}: {explain(error)}"
        ) from None


def between(
    prepare: Main, main: Main, channel: messages.Channel, *, flags: int = 0, cgroup: int = -1
) -> tuple[int, int]:
    """(pid, pidfd) of a new child of ours that runs ``main``, cloned by a process that ran ``prepare`` first."""
    ours, theirs = messages.pair()
    middle, pidfd = namespaces.clone(0)
    if middle == 0:
        child(lambda: _clone_sibling(prepare, main, channel, theirs, flags, cgroup), theirs)
    os.close(pidfd)
    theirs.close()
    try:
        _, text = ours.receive("pid")
        pid = int(text)
        return pid, processes.pidfd_open(pid)
    finally:
        ours.close()
        os.waitpid(middle, 0)


def _clone_sibling(
    prepare: Main,
    main: Main,
    channel: messages.Channel,
    report: messages.Channel,
    flags: int,
    cgroup: int,
) -> None:
    prepare()
    pid, _ = namespaces.clone(flags | namespaces.CLONE_PARENT, exit_signal=0, cgroup=cgroup)
    if pid == 0:
        child(main, channel)
    report.send("pid", str(pid))
    os._exit(0)


def _gather(wanted: Namespaces, offsets: str) -> None:
    """In between: join what is to be joined, and ask for a clock."""
    failed: list[str] = []
    for name in _ORDER:
        if name in wanted.joined:
            try:
                namespaces.setns(wanted.joined[name], namespaces.TYPES[name][1])
            except OSError as error:
                if error.errno != _EPERM or "user" not in wanted.joined:
                    _join(wanted, name)
                failed.append(name)
    if "user" in wanted.joined:
        _join(wanted, "user")
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    for name in failed:
        _join(wanted, name)
    if "time" in wanted.new:
        namespaces.unshare(namespaces.CLONE_NEWTIME)
        if offsets:
            files.write_file("/proc/self/timens_offsets", offsets)
