"""dockerd's directories: that they are ours, and that nobody else uses them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from longshore.api.errors import FailedPrecondition

LOCK: Final = "longshore.lock"

# What Docker's own engine keeps at its root; we would mix our volumes and containers with its.
_FOREIGN: Final = ("image", "overlay2", "network/files/local-kv.db", "buildkit")


@contextlib.contextmanager
def claim(data_root: str, exec_root: str) -> Iterator[None]:
    """Make, check and lock both for as long as the block lasts. FailedPrecondition says what to do."""
    root = Path(data_root)
    root.mkdir(mode=0o710, parents=True, exist_ok=True)
    Path(exec_root).mkdir(mode=0o711, parents=True, exist_ok=True)
    refuse_foreign(root)
    with _locked(root):
        for name, mode in (("containers", 0o710), ("volumes", 0o701), ("tmp", 0o700)):
            (root / name).mkdir(mode=mode, exist_ok=True)
        yield


def refuse_foreign(root: Path) -> None:
    """Raise FailedPrecondition if `root` holds the data of another engine."""
    if (root / LOCK).exists():
        return
    for name in _FOREIGN:
        if (root / name).exists():
            raise FailedPrecondition(
                f"{root / name} is another engine's: refusing to use {root}; give another directory,"
                f" for example --data-root {root}-longshore"
            )


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    with open(os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = file.read().strip() or "unknown"
            raise FailedPrecondition(
                f"{root} is in use by another dockerd (pid {owner}): stop it, or give another --data-root"
            ) from None
        with contextlib.suppress(OSError):  # for the message above only; a disk may be full
            os.pwrite(file.fileno(), f"{os.getpid():<15}\n".encode(), 0)
        yield


@contextlib.contextmanager
def pidfile(path: str) -> Iterator[None]:
    """Our pid in `path`, removed at the end. FailedPrecondition if another process that runs is named there."""
    if not path:
        yield
        return
    if (other := _running(path)) is not None:
        raise FailedPrecondition(f"process with PID {other} is still running: ensure {path} is not in use")
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    Path(path).write_text(str(os.getpid()))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _running(path: str) -> int | None:
    try:
        pid = int(Path(path).read_text().strip())
        # After a reboot the number may be anybody's.
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    ours = any(b"dockerd" in word for word in words)
    return pid if ours and pid != os.getpid() else None
