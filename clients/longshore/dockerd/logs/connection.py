"""dockerd's end of a logger's socket."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from longshore.dockerd.logs import wire

_CHUNK = 1 << 18
_MAX_FDS = 16
_CREDENTIALS = struct.Struct("iII")


class Connection:
    """Frames both ways. One reader at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames = wire.Frames()
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._fds: deque[int] = deque()
        self._sending = asyncio.Lock()
        self._complete = False
        self.cut = False
        """The logger hung up without a word: somebody killed it."""

    @property
    def pid(self) -> int:
        """Of the logger."""
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(data)[0]
        return pid

    async def send(self, kind: int, data: bytes = b"") -> None:
        """Returns when the logger has room for it. Raises ConnectionError when it is gone."""
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self._socket, wire.frame(kind, data))

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame; None when the logger has hung up."""
        while not self._arrived:
            data = await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK)
            if not data:
                return None
            self._arrived.extend(self._frames.feed(data))
        return self._arrived.popleft()

    async def news(self, rotated: Callable[[int], None]) -> bool:
        """Wait until the log has grown, hand over the files it went on in; False when it is complete."""
        if not self._complete:
            await _readable(self._socket)
        return self.take_news(rotated)

    def take_news(self, rotated: Callable[[int], None]) -> bool:
        """As `news`, but don't wait."""
        self._complete = self._complete or self._take_frames()
        while self._fds:
            rotated(self._fds.popleft())
        return not self._complete

    def _take_frames(self) -> bool:
        """Whatever has arrived; True when the log is complete or the logger is gone."""
        complete = False
        while not complete:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, _CHUNK, _MAX_FDS)
            except BlockingIOError:
                break
            except OSError:
                data, fds = b"", []
            self._fds.extend(fds)
            self.cut = not data
            complete = self.cut or any(kind == wire.DONE for kind, _ in self._frames.feed(data))
        return complete

    def close(self) -> None:
        if (fd := self._socket.fileno()) >= 0:
            # Whoever still waits for it: the loop must not take the next file of this number for it.
            loop = asyncio.get_running_loop()
            loop.remove_reader(fd)
            loop.remove_writer(fd)
        self._socket.close()
        while self._fds:
            os.close(self._fds.popleft())


async def connect(folder: str) -> Connection:
    """Raises FileNotFoundError or ConnectionRefusedError when no logger is there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The folder's path may be longer than an address can be.
            path = f"/proc/self/fd/{directory}/{wire.SOCKET}"
            await asyncio.get_running_loop().sock_connect(connection, path)
        finally:
            os.close(directory)
    except BaseException:
        connection.close()
        raise
    return Connection(connection)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock)
