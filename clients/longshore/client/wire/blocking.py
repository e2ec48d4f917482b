"""Carrying bytes without an event loop: what awaits here blocks instead, and `run` runs it.

For programs that make one call after the other. `socket` would cost 5 ms to
import, for names that nobody here needs.
"""

from __future__ import annotations

import os
import select
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM
from _socket import socket as Socket
from collections.abc import Coroutine
from time import monotonic
from typing import Any, TypeVar

from longshore.client.wire.channel import Carrier, Channel
from longshore.client.wire.http2 import Stream

T = TypeVar("T")

_BLOCK = 256 << 10


def channel(path: str) -> Channel:
    """A channel whose calls block; not for two threads at once."""
    return Channel(path, _connect)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing but such channels. Raises RuntimeError when it waits for something else."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("this waits for something that needs an event loop")


async def _connect(path: str) -> Carrier:
    socket = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        socket.connect(path)
        socket.setblocking(False)
        return _Blocking(socket)
    except BaseException:
        socket.close()
        raise


class _Blocking(Carrier):
    def __init__(self, socket: Socket) -> None:
        super().__init__()
        self._socket = socket
        self._unsent = memoryview(b"")
        self._poll = select.poll()

    def flush(self) -> None:
        self.conversation.changed()
        data = self.conversation.take()
        if data:
            self._unsent = memoryview(bytes(self._unsent) + data)
        while self._unsent and not self.conversation.lost:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(error)

    async def wait(self, stream: Stream | None, until: float | None) -> None:
        self.flush()
        if self.conversation.lost or (stream is not None and stream.status is not None):
            return
        wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        self._poll.register(self._socket.fileno(), wanted)
        left = None if until is None else max(0.0, until - monotonic()) * 1000
        if not self._poll.poll(left):
            raise TimeoutError
        self._read()
        self.flush()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_BLOCK)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if data:
            self.conversation.receive(data)
        else:
            self.conversation.lose("the daemon closed the connection")

    def _lost(self, error: OSError) -> None:
        self.conversation.lose(f"connection lost: {os.strerror(error.errno or 0)}")

    def close(self) -> None:
        self.conversation.lose("the connection was closed")
        self._socket.close()
