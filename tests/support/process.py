"""Starting a daemon, knowing when it answers, and showing its log when it doesn't."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class NotReady(AssertionError):
    """The daemon ended, or never listened; carries the end of its log."""


def wait_for_socket(process: subprocess.Popen[bytes], address: Path, log: Path, within: float = 30) -> None:
    """Return once something accepts on the Unix socket `address`. Raises NotReady."""
    deadline = time.monotonic() + within
    while not _accepts(address):
        if process.poll() is not None:
            raise NotReady(f"{process.args!r} ended with {process.returncode}\n{tail(log)}")
        if time.monotonic() > deadline:
            raise NotReady(f"{process.args!r} does not listen on {address}\n{tail(log)}")
        select.select([], [], [], 0.01)


def _accepts(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(address))
        except OSError:
            return False
    return True


def tail(log: Path, lines: int = 60) -> str:
    """The last `lines` of a log file, "" when there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def eventually(look: Callable[[], T], within: float = 60, what: str = "") -> T:
    """The first truthy answer of `look`; AssertionError after `within` seconds. For states that others reach."""
    deadline = time.monotonic() + within
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {within} s: {what or look}; last answer {answer!r}")
        select.select([], [], [], 0.02)
    return answer
