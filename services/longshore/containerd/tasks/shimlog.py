"""A shim's log: a FIFO in its bundle, whose lines go to the daemon's own log."""

from __future__ import annotations

import asyncio
import os

import structlog

from longshore.containerd.tasks.bundle import LOG, Bundle

log = structlog.get_logger("shim")

_CHUNK = 16384
_LONGEST = 65536  # a "line" beyond this is passed on in pieces


class ShimLog:
    """Copies while it is open. The FIFO is held open for writing too: it never ends, and no shim gets EPIPE."""

    def __init__(self, bundle: Bundle) -> None:
        """Open the FIFO of `bundle`. Raises OSError."""
        self._log = log.bind(namespace=bundle.namespace, id=bundle.id)
        self._rest = b""
        self._fd = os.open(bundle.file(LOG), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Copy what is there and let go of the FIFO."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        self._read()
        os.close(self._fd)
        self._fd = -1
        if self._rest:
            self._say(self._rest)

    def _read(self) -> None:
        try:
            data = self._rest + os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        *lines, self._rest = data.split(b"\n")
        if len(self._rest) > _LONGEST:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._say(line)

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._log.info(text)
