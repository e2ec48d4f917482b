"""What a service tells systemd."""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger("systemd")


def notify(state: str) -> None:
    """sd_notify: ``READY=1``, ``STOPPING=1``, ... if it is systemd that started us. A failure is only logged."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address)
    except OSError as error:
        log.warning("systemd could not be told", state=state, error=str(error))
