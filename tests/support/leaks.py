"""What a test left behind: mounts, processes, cgroups, network namespaces, state of runtimes.

The machine is shared with other tests that run at the same time, so nothing is
compared before and after. A thing belongs to a test when it names the test's
own folder or its own containerd namespace: `Watch(folders, names)` searches for
both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
RUNTIME_STATE = Path("/run/containerd/runc")  # where Go's shims keep runc's state, a folder per namespace
SETTLES_WITHIN = 60.0  # seconds: the kernel reaps and unmounts in its own time, a shim waits 5 s to be heard


class Watch:
    """Everything that names one of `folders` (paths) or one of `names` (cgroup directories)."""

    def __init__(self, folders: Iterable[Path] = (), names: Iterable[str] = ()) -> None:
        self.folders = [str(folder).rstrip("/") for folder in folders]
        self.names = set(names)

    def left(self) -> list[str]:
        """One line per leftover, as of now."""
        return [
            *self._processes(),
            *self._mounts(),
            *self._cgroups(),
            *self._network_namespaces(),
            *self._runtime_state(),
        ]

    def check(self, within: float = SETTLES_WITHIN, *, removing_cgroups: bool = False) -> None:
        """AssertionError that lists what is still there after `within` seconds.

        `removing_cgroups` is for Go's runtimes: again and again, as the kernel
        calls a cgroup busy until its last process is buried.
        """
        deadline = time.monotonic() + within
        while left := self.left():
            if removing_cgroups:
                self.remove_cgroups()
            if time.monotonic() > deadline:
                raise AssertionError("left behind:\n  " + "\n  ".join(left))
            time.sleep(0.02)

    def remove_cgroups(self) -> None:
        """Remove the empty cgroups of our names: Go's runc leaves the parents of what it made."""
        for folder in sorted(self._own_cgroups(), key=lambda found: len(found.parts), reverse=True):
            try:
                folder.rmdir()
            except OSError:
                pass  # not empty: `check` will tell

    def processes(self) -> dict[int, str]:
        """pid -> command line of the processes that are ours."""
        return {pid: line for pid in _pids() if pid != os.getpid() and (line := self._claims(pid))}

    def _processes(self) -> list[str]:
        return [f"process {pid}: {line}" for pid, line in self.processes().items()]

    def _claims(self, pid: int) -> str:
        """The command line of `pid` when it is one of ours, else ""."""
        line = _text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
        if not line:  # kernel threads and zombies: the parent's to reap
            return ""
        seen = [line, _link(f"/proc/{pid}/cwd"), _link(f"/proc/{pid}/root"), _link(f"/proc/{pid}/exe")]
        if any(self._names_folder(text) for text in seen):
            return line
        return line if self._in_our_cgroup(_text(f"/proc/{pid}/cgroup")) else ""

    def _names_folder(self, text: str) -> bool:
        return any(f"{folder}/" in text or text.endswith(folder) for folder in self.folders)

    def _in_our_cgroup(self, listing: str) -> bool:
        return any(self.names.intersection(line.split("/")) for line in listing.splitlines())

    def _mounts(self) -> list[str]:
        """Mounts on our folders, as we see them and as processes of ours do.

        Other tests' mount namespaces hold copies of whatever was mounted when
        they were made; those go with them.
        """
        found: dict[str, None] = {}
        for pid in (os.getpid(), *self.processes()):
            for line in _text(f"/proc/{pid}/mountinfo").splitlines():
                target = line.split(" ")[4]
                if any(target == folder or target.startswith(f"{folder}/") for folder in self.folders):
                    found[f"mount {target} ({line.partition(' - ')[2]})"] = None
        return list(found)

    def _own_cgroups(self) -> Iterator[Path]:
        if not self.names:
            return
        for folder, children, _ in os.walk(CGROUPS):
            for child in children:
                if self.names.intersection(child.split(":")) or self.names.intersection(folder.split("/")):
                    yield Path(folder, child)

    def _cgroups(self) -> list[str]:
        return [f"cgroup {folder}" for folder in self._own_cgroups()]

    def _network_namespaces(self) -> list[str]:
        folder = Path("/run/netns")
        if not folder.is_dir():
            return []
        return [
            f"netns {entry}" for entry in folder.iterdir() if self.names.intersection(entry.name.split("-"))
        ]

    def _runtime_state(self) -> list[str]:
        folders = [RUNTIME_STATE / name for name in self.names]
        return [f"state {folder}" for folder in folders if folder.is_dir()]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
