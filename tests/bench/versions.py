"""Whether a daemon answers, asked without blocking for long: HTTP/2's first bytes on its socket."""

from __future__ import annotations

import socket
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def answers(address: Path) -> bool:
    """True once the server has sent its own settings."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(2)
        try:
            door.connect(str(address))
            door.sendall(PREFACE)
            return bool(door.recv(9))
        except OSError:
            return False
