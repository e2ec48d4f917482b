"""The console socket: where a runtime delivers the master of a container's terminal."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from fcntl import ioctl
from termios import TIOCSWINSZ

from longshore.shim.loop import READ, Loop, Promise

_PATH_LIMIT = 107


class ConsoleSocket:
    """A listening socket for one terminal; `master` is settled when the runtime has sent it.

    Use as a context manager: socket and path are gone afterwards.
    """

    def __init__(self, loop: Loop, bundle: str) -> None:
        self._loop = loop
        self._directory = ""
        self.path = f"{bundle}/pty-{os.urandom(4).hex()}.sock"
        if len(os.fsencode(self.path)) > _PATH_LIMIT:
            base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("TMPDIR") or "/tmp"
            self._directory = f"{base}/pty{os.urandom(6).hex()}"
            os.mkdir(self._directory, 0o700)
            self.path = f"{self._directory}/pty.sock"
        self.master: Promise[int] = Promise()
        self._peer: socket.socket | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.bind(self.path)
        self._socket.listen(1)
        loop.watch(self._socket.fileno(), READ, self._accept)

    def __enter__(self) -> ConsoleSocket:
        return self

    def __exit__(self, *_: object) -> None:
        for open_socket in (self._socket, self._peer):
            if open_socket is not None:
                self._loop.forget(open_socket.fileno())
                open_socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        if self._directory:
            os.rmdir(self._directory)
        self.master.reject(ConnectionError("the runtime sent no console"))

    def _accept(self, _: int) -> None:
        try:
            self._peer, _address = self._socket.accept()
        except BlockingIOError:
            return
        self._peer.setblocking(False)
        self._loop.forget(self._socket.fileno())
        self._loop.watch(self._peer.fileno(), READ, self._receive)

    def _receive(self, _: int) -> None:
        assert self._peer is not None
        try:
            # The data is the terminal's name; the one descriptor is what counts.
            _name, fds, _flags, _ = socket.recv_fds(self._peer, 4096, 1)
        except BlockingIOError:
            return
        self._loop.forget(self._peer.fileno())
        if fds and not self.master.done:
            self.master.resolve(fds[0])
        else:
            self.master.reject(ConnectionError("the runtime hung up without sending a console"))


def resize(master: int, width: int, height: int) -> None:
    """Set a terminal's size in characters."""
    ioctl(master, TIOCSWINSZ, struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))
