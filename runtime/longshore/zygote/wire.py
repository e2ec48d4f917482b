"""What passes between a zygote's client and the children it asks for.

    client -> zygote   one packet. For a worker: CALL, and descriptors: the reply socket's other end, more.
                       For a shim: SHIM and its parameters (`shim_packet`), and descriptors: the reply
                       socket's other end, the listening socket.
    worker -> client   one byte and a pidfd of itself: "I was forked"; no such byte: nothing has begun
    client -> worker   a record: {"function": "module:name", "arguments": {...}}
    worker -> client   a record: {"value": ...} or {"kind": class name, "message": text}
    shim   -> client   STARTED and its pid in digits, end of file

A record is a u32, big endian, and that many bytes of JSON. End of file instead
of the last record means that the child died.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

CALL = b"call"
SHIM = b"shim"
MAX_FDS = 253  # SCM_MAX_FD

MAX_PACKET = 65536

LENGTH = struct.Struct(">I")
STARTED = b"+"


def encode(record: object) -> bytes:
    """A record as bytes."""
    data = json.dumps(record).encode()
    return LENGTH.pack(len(data)) + data


def shim_packet(parameters: Sequence[str]) -> bytes:
    """A request for a shim: words with NULs between, which cost the child less than JSON to read."""
    packet = "\0".join(("shim", *parameters)).encode("utf-8", "surrogateescape")
    if len(packet) > MAX_PACKET:
        raise ValueError("the shim's parameters are too long")
    return packet


def started(reply: int) -> None:
    """Child: say that we exist, and hand over the means to end us."""
    pidfd = os.pidfd_open(os.getpid())
    sock = socket.socket(fileno=reply)
    try:
        socket.send_fds(sock, [STARTED], [pidfd])
    finally:
        sock.detach()
        os.close(pidfd)


def receive(reply: int) -> dict[str, Any]:
    """Child: read the request. Raises EOFError when the client is gone."""
    (length,) = LENGTH.unpack(_exactly(reply, LENGTH.size))
    request: dict[str, Any] = json.loads(_exactly(reply, length))
    return request


def answer(reply: int, value: object) -> None:
    """Child: the result, anything JSON can say."""
    _write(reply, encode({"value": value}))


def answer_error(reply: int, error: BaseException) -> None:
    """Child: the exception's class name and text."""
    message = getattr(error, "message", None)
    text = message if isinstance(message, str) else str(error)
    _write(reply, encode({"kind": type(error).__name__, "message": text}))


def rehearse(rounds: int) -> None:
    """A worker's part with little in it: before the fork, so that children share what the first runs change."""
    for _ in range(rounds):
        client, worker = socket.socketpair()
        with client, worker:
            client.sendall(encode({"function": "module:name", "arguments": {"name": "value", "number": 1}}))
            started(worker.fileno())
            receive(worker.fileno())
            answer(worker.fileno(), {"pid": os.getpid()})


def _exactly(fd: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError("the client hung up")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
