"""The daemon's two directories: whose they are, where things lie below, and that nobody else uses them.

`root` persists, `state` is gone with a reboot. The layout below is containerd's
(``<type>.<id>`` per part), and so a containerd's root could be mistaken for
ours. A containerd started on a strange root deletes all of it with its first
collection; hence the checks in `claim`, before anything is written.
"""

from __future__ import annotations

import contextlib
import errno
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
    usable(directories.root, 0o700, "--root")
    usable(directories.state, 0o711, "--state")
    refuse_foreign(directories)
    with _locked(directories.root, "--root"), contextlib.ExitStack() as stack:
        if not directories.root.samefile(directories.state):
            stack.enter_context(_locked(directories.state, "--state"))
        yield


def usable(directory: Path, mode: int, flag: str) -> None:
    """Make it if it isn't there. Raises FailedPrecondition, naming the flag, if it can't be or can't be written to."""
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (FileExistsError, NotADirectoryError):
        raise FailedPrecondition(f"{directory} is no directory: give another {flag}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FailedPrecondition(f"can't use {directory}: {reason}; give another {flag}") from None


def refuse_foreign(directories: Directories) -> None:
    """Raise FailedPrecondition if `root` holds the data of another containerd."""
    bbolt = directories.root / _BBOLT
    if bbolt.exists():
        raise _foreign(directories.root, bbolt, "is the database of a containerd")
    if _has_data(directories.metadata):
        return
    for place in (directories.root / _CONTENT, *directories.root.glob(_SNAPSHOTS)):
        if found := _first_entry(place):
            if directories.metadata.exists():
                raise FailedPrecondition(
                    f"{directories.metadata} is empty, and {found} is there: the database was lost; put a copy of"
                    f" it back, or move {directories.root} away, or give another --root"
                )
            raise _foreign(directories.root, found, "wasn't put there by Longshore")


def _has_data(database: Path) -> bool:
    """In the file, or in SQLite's log beside it, which a daemon that was killed leaves."""
    files = (database, database.with_name(f"{database.name}-wal"))
    return any(file.is_dir() or (file.exists() and file.stat().st_size) for file in files)


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
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FailedPrecondition(f"can't lock {path}: {reason}; give another {flag}") from None
    with open(descriptor, "r+") as file:
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
