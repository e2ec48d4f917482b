"""A client connection that is made again whenever it is lost, in the shim's loop."""

from __future__ import annotations

import errno
import os
import socket

from longshore.shim.loop import HANGUP, READ, WRITE, Loop


def unix_path(address: str) -> str:
    """The path of ``unix:///path``, ``/path``, or of an abstract name."""
    path = address.removeprefix("unix://")
    return path if path.startswith("/") else "\0" + path


class Peer:
    """Subclasses say what the bytes mean: `opened`, `received`, `lost`.

    Errors of the socket and whatever those methods raise as OSError lose the
    connection; how long to wait before the next is theirs to say.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._path = ""
        self._socket: socket.socket | None = None
        self._out = bytearray()

    def address(self, address: str) -> None:
        """Where to connect to from now on."""
        self._path = unix_path(address)

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def connect(self) -> None:
        """Try now; ends in `opened`, or in `lost`, before this returns."""
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fresh.setblocking(False)
        try:
            fresh.connect(self._path)
        except OSError as error:
            # A full backlog is EAGAIN: Unix sockets have no connection in progress.
            fresh.close()
            self.lost(error.strerror or "cannot connect")
            return
        self._socket = fresh
        self._out.clear()
        self.loop.watch(fresh.fileno(), READ, self._event)
        self.opened()

    def write(self, data: bytes) -> None:
        """Send, or queue what the socket doesn't take now."""
        self._out += data
        self._flush()

    def drop(self, reason: str) -> None:
        """Give the connection up."""
        if self._socket is None:
            return
        self.loop.forget(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self.lost(reason)

    def opened(self) -> None:
        """The connection stands."""
        raise NotImplementedError

    def received(self, data: bytes) -> None:
        """Bytes came."""
        raise NotImplementedError

    def lost(self, reason: str) -> None:
        """There is no connection (any more)."""
        raise NotImplementedError

    def _event(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & (READ | HANGUP) and self._socket is not None:
            self._read(self._socket)

    def _read(self, open_socket: socket.socket) -> None:
        try:
            data = open_socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.drop(error.strerror or "connection lost")
            return
        if data:
            self.received(data)
        else:
            self.drop(os.strerror(errno.ECONNRESET))

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError as error:
            self.drop(error.strerror or "connection lost")
            return
        self.loop.watch(self._socket.fileno(), READ | WRITE if self._out else READ, self._event)
