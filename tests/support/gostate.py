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
    """Remove runc's folder for `namespace`, sockets that nobody listens on, and the folders above if empty."""
    for entry in (PLACE / "s").glob("?" * 64):
        if _is_dead(entry):
            entry.unlink(missing_ok=True)
    for folder in (PLACE / "runc" / namespace, PLACE / "runc", PLACE / "s", PLACE / "fifo", PLACE):
        try:
            folder.rmdir()
        except OSError:
            pass  # not there, or in use by others


def _is_dead(entry: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(entry))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
