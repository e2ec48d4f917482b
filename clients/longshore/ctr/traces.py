"""What a container stack can leave behind on a machine, and how to find and remove it.

Everything is identified by something of ours (a directory, a namespace's
name, a process with its start time), so that nothing of anybody else's is
ever touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CGROUPS = "/sys/fs/cgroup"
PATIENCE = 5  # seconds for what ends by itself to end


class ProcessId(NamedTuple):
    """A pid alone may be another process's later."""

    pid: int
    started: int


class Survey(NamedTuple):
    """The machine before: named network namespaces and mounts."""

    network_names: frozenset[str]
    mounts: frozenset[str]


def survey() -> Survey:
    return Survey(frozenset(_names("/run/netns")), frozenset(mount_points()))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    """The fields of /proc/pid/stat after the command's name, which may hold spaces."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def identify(pid: int) -> ProcessId | None:
    """None when there is no such process, or only its zombie."""
    fields = _stat(pid)
    return ProcessId(pid, int(fields[19])) if fields and fields[0] not in ("Z", "X") else None


def parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(root: int) -> set[ProcessId]:
    """Children of a process and theirs."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        children.setdefault(parent(pid), []).append(pid)
    found: set[ProcessId] = set()
    queue = list(children.get(root, ()))
    while queue:
        pid = queue.pop()
        queue += children.get(pid, ())
        process = identify(pid)
        if process is not None:
            found.add(process)
    return found


def lineage(pid: int) -> set[ProcessId]:
    """A process and its ancestors, without PID 1 and ourselves: from a container's process up to its shim."""
    found: set[ProcessId] = set()
    while pid > 1 and pid != os.getpid():
        process = identify(pid)
        if process is None:
            break
        if pid in _own_ancestors():
            break
        found.add(process)
        pid = parent(pid)
    return found


def _own_ancestors() -> set[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0:
        found.add(pid)
        pid = parent(pid)
    return found


def namespace(pid: int, name: str) -> str:
    """``net:[4026531840]``, "" when it can't be read."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{name}")
    except OSError:
        return ""


def mount_points(below: str = "") -> Iterator[str]:
    """Mount points, latest last; only those at or under a directory, if given."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            point = line.split()[4].encode().decode("unicode_escape")
            if not below or point == below or point.startswith(f"{below}/"):
                yield point


def snapshotter_for(folder: str) -> str:
    """overlayfs, unless the directory lies on an overlay itself (in a container, say), which can't be stacked."""
    best, kind = "", ""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split()
            point = fields[4]
            if (folder == point or folder.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, fields[fields.index("-") + 1]
    return "native" if kind == "overlay" else "overlayfs"


def cgroups(name: str) -> list[str]:
    """Directories of that name at the top of any hierarchy."""
    tops = [CGROUPS, *(os.path.join(CGROUPS, entry) for entry in _names(CGROUPS))]
    candidates = [os.path.join(top, name) for top in tops if os.path.isdir(top) and not os.path.islink(top)]
    return [path for path in candidates if os.path.isdir(path)]


def await_gone(processes: Iterable[ProcessId], seconds: float = PATIENCE) -> list[ProcessId]:
    """Those that still live after so many seconds; each is waited for by a descriptor, not by looking again."""
    import select

    deadline = time.monotonic() + seconds
    living: list[ProcessId] = []
    for process in processes:
        if identify(process.pid) != process:
            continue
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            if identify(process.pid) != process:
                continue
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                living.append(process)
        finally:
            os.close(fd)
    return living


def clean(
    folder: str, namespace_name: str, processes: set[ProcessId], network: str, before: Survey
) -> list[str]:
    """Say what is left of us after everything was stopped, and remove it.

    Empty is the answer that we want: then nothing but the directory had to go.
    """
    left: list[str] = []
    for process in await_gone(processes):
        left.append(f"process {process.pid}: {_command(process.pid)}")
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for point in reversed(list(mount_points(folder))):
        left.append(f"mount {point}")
        subprocess.run(["umount", "-l", point], check=False)
    left += [
        f"mount {point}"
        for point in mount_points()
        if point not in before.mounts and _ours(point, namespace_name)
    ]
    for path in cgroups(namespace_name):
        left.append(f"cgroup {path}")
        _remove_cgroup(path)
    left += [f"network namespace {name}" for name in _names("/run/netns") if name not in before.network_names]
    if network:
        users = [pid for pid in pids() if namespace(pid, "net") == network]
        left += [f"network namespace of process {pid}" for pid in users]
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder):
        left.append(f"directory {folder}")
    return left


def _ours(point: str, namespace_name: str) -> bool:
    return f"/{namespace_name}/" in point


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def _remove_cgroup(path: str) -> None:
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass
