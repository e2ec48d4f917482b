"""A proxy's life played through in dockerd's zygote: see `longshore.zygote.main`.

Sockets are abstract Unix ones, so that no port is taken meanwhile.
"""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_STREAM, socket

from longshore.proxy.main import Target
from longshore.proxy.tcp import StreamProxy

_PROTOCOL = 1  # not 0: what only TCP's sockets know is left out
_BACKLOG = 8


def rehearse(_: str, rounds: int) -> None:
    """Carry `rounds` short connections. Raises OSError."""
    container, front = _listener(), _listener()
    target = Target("127.0.0.1", 0, _PROTOCOL)
    target.family, target.address = AF_UNIX, container.getsockname()
    proxy = StreamProxy(front, target)
    proxy.begin()
    for _round in range(rounds):
        _connection(proxy, container, front.getsockname())
    front.close()
    container.close()


def _listener() -> socket:
    listener = socket(AF_UNIX, SOCK_STREAM, _PROTOCOL)
    listener.bind("")
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _connection(proxy: StreamProxy, container: socket, front: bytes) -> None:
    client = socket(AF_UNIX, SOCK_STREAM, _PROTOCOL)
    client.connect(front)
    client.send(b"request")
    proxy.turn(0)
    fd, _address = container._accept()  # type: ignore[attr-defined]
    server = socket(AF_UNIX, SOCK_STREAM, _PROTOCOL, fd)
    server.recv(100)
    server.send(b"answer")
    proxy.turn(0)
    server.close()
    proxy.turn(0)
    client.close()
    proxy.turn(0)
