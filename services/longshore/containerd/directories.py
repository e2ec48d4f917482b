"""The daemon's two directories: whose they are, where things lie below, and that nobody else uses them.

`root` persists, `state` is gone with a reboot. The layout below is containerd's
(``<type>.<id>`` per part), and so a containerd's root could be mistaken for
ours. A containerd started on a strange root deletes all of it with its first
collection; hence the checks in `claim`, before anything is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longshore.api.errors import FailedPrecondition

_BBOLT = "io.containerd.metadata.v1.bolt/meta.db"
_METADATA = "io.containerd.metadata.v1.sqlite/meta.sqlite"
_CONTENT = "io.containerd.content.v1.content/blobs"
_SNAPSHOTS = "io.containerd.snapshotter.v1.*/snapshots"

_LOCK = "longshore.lock"


@dataclass(frozen=True, slots=True)
class Directories:
    root: Path
    state: Path

    def plugin_root(self, type: str, id: str) -> Path:
        """Where a part keeps what persists; made by the part that uses it."""
        return self.root / f"{type}.{id}"

    def plugin_state(self, type: str, id: str) -> Path:
        """Where a part keeps what a reboot may take."""
        return self.state / f"{type}.{id}"

    @property
    def metadata(self) -> Path:
        """The database, whose presence marks a root as ours."""
        return self.root / _METADATA


@contextlib.contextmanager
def claim(directories: Directories) -> Iterator[None]:
    """Make, check and lock both directories for as long as the context lasts.

    Raises FailedPrecondition, with what to do next, when they belong to a
    containerd, hold images that we didn't put there, or are in use.
    """
    directories.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    directories.state.mkdir(mode=0o711, parents=True, exist_ok=True)
    refuse_foreign(directories)
    with _locked(directories.root, "--root"), contextlib.ExitStack() as stack:
        if not directories.root.samefile(directories.state):
            stack.enter_context(_locked(directories.state, "--state"))
        yield


def refuse_foreign(directories: Directories) -> None:
    """Raise FailedPrecondition if `root` holds the data of another containerd."""
    bbolt = directories.root / _BBOLT
    if bbolt.exists():
        raise _foreign(directories.root, bbolt, "is the database of a containerd")
    if directories.metadata.exists():
        return
    for place in (directories.root / _CONTENT, *directories.root.glob(_SNAPSHOTS)):
        if found := _first_entry(place):
            raise _foreign(directories.root, found, "wasn't put there by Longshore")


def _first_entry(place: Path) -> Path | None:
    """Something under `place` that holds data: an empty blobs/sha256 doesn't count."""
    if not place.is_dir():
        return None
    for entry in sorted(place.iterdir()):
        if entry.name == "sha256" and not any(entry.iterdir()):
            continue
        return entry
    return None


def _foreign(root: Path, path: Path, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} {what}: refusing to use {root}, for we would damage it; give another directory,"
        f" for example --root {root}-longshore"
    )


@contextlib.contextmanager
def _locked(directory: Path, flag: str) -> Iterator[None]:
    path = directory / _LOCK
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise FailedPrecondition(
                f"{directory} is in use by another containerd (pid {owner}): stop it, or give another {flag}"
            ) from None
        # For the message above only; a disk may be full.
        with contextlib.suppress(OSError):
            os.pwrite(file.fileno(), f"{os.getpid():<15}\n".encode(), 0)
        yield
