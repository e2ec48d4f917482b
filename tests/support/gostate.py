"""What Go's shims and runc leave below /run/containerd when they run on the host itself.

Sockets of shims that were killed, and a folder for each namespace. The
machine may have a containerd of its own there, so only what is ours or dead
is removed, and folders only when nothing is left in them.
"""

from __future__ import annotations

import socket
from pathlib import Path

PLACE = Path("/run/containerd")


def remove(namespace: str) -> None:
    """Remove runc's folder for `namespace`, and sockets that nobody has bound."""
    for entry in (PLACE / "s").glob("?" * 64):
        if _is_dead(entry):
            entry.unlink(missing_ok=True)
    _remove_empty(PLACE / "runc" / namespace)


def remove_folders() -> None:
    """Remove the folders above, if empty: when no test runs any more that could be about to use them."""
    for folder in (PLACE / "runc", PLACE / "s", PLACE / "fifo", PLACE):
        _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # not there, or in use by others


def _is_dead(entry: Path) -> bool:
    """Bound and not listening yet, as a shim's socket is at its start, refuses connections too: the table knows."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(entry))
        except ConnectionRefusedError:
            return str(entry) not in Path("/proc/net/unix").read_text()
        except OSError:
            return False
    return False
