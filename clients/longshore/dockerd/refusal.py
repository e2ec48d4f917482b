"""HTTP/2, as much of it as it takes to refuse every gRPC call in words. No I/O."""

from __future__ import annotations

import struct
from typing import Final
from urllib.parse import quote

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS, _PING = 1, 4, 6
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_HEAD: Final = 9
_FAILED_PRECONDITION: Final = 9


class Refusal:
    """`feed` what the client sends, and send what it answers: each call fails with `message`."""

    def __init__(self, message: str) -> None:
        self._buffer = b""
        self._greeted = False
        self._answer = _headers(message)

    def feed(self, data: bytes) -> bytes:
        """ValueError for what isn't HTTP/2."""
        self._buffer += data
        out = b""
        if not self._greeted:
            if len(self._buffer) < len(PREFACE):
                return b""
            if not self._buffer.startswith(PREFACE):
                raise ValueError("no HTTP/2")
            self._buffer, self._greeted = self._buffer[len(PREFACE) :], True
            out = _frame(_SETTINGS, 0, 0, b"")
        while len(self._buffer) >= _HEAD:
            length = int.from_bytes(self._buffer[:3], "big")
            if length > 1 << 20:
                raise ValueError("a frame that is too long")
            if len(self._buffer) < _HEAD + length:
                break
            out += self._frame(self._buffer[:_HEAD], self._buffer[_HEAD : _HEAD + length])
            self._buffer = self._buffer[_HEAD + length :]
        return out

    def _frame(self, head: bytes, payload: bytes) -> bytes:
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        if kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0, b"")
        if kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, payload)
        if kind == _HEADERS:
            return _frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, self._answer)
        return b""


def _headers(message: str) -> bytes:
    """Of an answer that is nothing but an error; by literals, so that nobody has a table to keep."""
    pairs = (
        ("content-type", "application/grpc"),
        ("grpc-status", str(_FAILED_PRECONDITION)),
        ("grpc-message", quote(message, safe=" =:_,.'")),
    )
    status_200 = b"\x88"
    return status_200 + b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def _text(text: str) -> bytes:
    data = text.encode("ascii")
    if len(data) >= 127:
        raise ValueError("too long for a length in one byte")
    return bytes((len(data),)) + data


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload
