"""One gRPC stream over HTTP/2, the client's half, framed by hand: bytes in, messages out.

Just what a shim needs to report its events for as long as it lives: one
connection with one bidirectional stream of a method without arguments to
negotiate. `h2` and grpcio do this and far more for 2 to 4 MiB per process;
they are what the tests hold this file against.

Simplifications, and why they are allowed:
- The request's headers are literals without indexing, so there is no HPACK
  encoder. Our SETTINGS set the header table to size 0 and nothing of a
  response's headers is read, so there is no decoder either: a stream that the
  server ends is over, whatever status it gives, and the caller starts anew.
- Received data is credited back as soon as it is read.
"""

from __future__ import annotations

import struct
from collections import deque

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAM = 1

DATA = 0x0
HEADERS = 0x1
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8

SETTINGS_HEADER_TABLE_SIZE = 0x1
SETTINGS_ENABLE_PUSH = 0x2
SETTINGS_INITIAL_WINDOW_SIZE = 0x4
SETTINGS_MAX_FRAME_SIZE = 0x5

DEFAULT_WINDOW = 65535
MAX_FRAME = 16384
_MAX_WINDOW = 2**31 - 1

_SETTING = struct.Struct(">HI")
_WORD = struct.Struct(">I")
_GRPC = struct.Struct(">BI")


class Closed(Exception):
    """The stream or its connection is over; the text says how."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame as bytes."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + _WORD.pack(stream) + payload


def literals(headers: list[tuple[str, str]]) -> bytes:
    """Headers as HPACK literals, never indexed by the peer; names and values shorter than 127 bytes."""
    block = bytearray()
    for name, value in headers:
        block += b"\x00" + _short(name) + _short(value)
    return bytes(block)


def _short(text: str) -> bytes:
    data = text.encode("ascii")
    if len(data) >= 127:
        raise ValueError(f"header too long for a one-byte length: {text!r}")
    return bytes((len(data),)) + data


class GrpcStream:
    """A connection just opened, and its one stream. Feed `receive`, write what `take` returns."""

    def __init__(self, path: str) -> None:
        """`path` is ``/package.Service/Method``. The opening bytes are ready at once."""
        headers = literals(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("user-agent", "longshore-shim"),
            ]
        )
        settings = _SETTING.pack(SETTINGS_HEADER_TABLE_SIZE, 0) + _SETTING.pack(SETTINGS_ENABLE_PUSH, 0)
        self._out = [
            PREFACE,
            frame(SETTINGS, 0, 0, settings),
            frame(HEADERS, END_HEADERS, STREAM, headers),
        ]
        self._in = bytearray()
        self._message = bytearray()
        self._queue: deque[bytes] = deque()
        self._connection_window = DEFAULT_WINDOW
        self._stream_window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._max_frame = MAX_FRAME

    def send(self, message: bytes) -> None:
        """Queue one message; it leaves as far as the peer's windows allow."""
        self._queue.append(_GRPC.pack(0, len(message)) + message)
        self._flush()

    def take(self) -> bytes:
        """The bytes to write now; they are forgotten here."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> list[bytes]:
        """Take received bytes; return the messages they completed. Raises Closed."""
        self._in += data
        messages: list[bytes] = []
        while len(self._in) >= 9:
            length = int.from_bytes(self._in[:3], "big")
            if length > MAX_FRAME:
                raise Closed(f"frame of {length} bytes, above our limit")
            if len(self._in) < 9 + length:
                break
            kind, flags = self._in[3], self._in[4]
            stream = _WORD.unpack_from(self._in, 5)[0] & 0x7FFFFFFF
            payload = bytes(self._in[9 : 9 + length])
            del self._in[: 9 + length]
            messages += self._handle(kind, flags, stream, payload)
        return messages

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> list[bytes]:
        try:
            if kind == DATA:
                return self._data(flags, payload)
            if kind == SETTINGS and not flags & ACK:
                self._settings(payload)
            elif kind == PING and not flags & ACK:
                self._out.append(frame(PING, ACK, 0, payload))
            elif kind == WINDOW_UPDATE:
                self._credit(stream, _WORD.unpack(payload)[0] & 0x7FFFFFFF)
            elif kind == HEADERS and flags & END_STREAM:
                raise Closed("the server ended the stream")
            elif kind == RST_STREAM:
                raise Closed(f"the server reset the stream, error {_WORD.unpack(payload)[0]}")
            elif kind == GOAWAY:
                reason = payload[8:].decode("utf-8", "replace")
                raise Closed(
                    f"the server goes away, error {_WORD.unpack_from(payload, 4)[0]} {reason}".rstrip()
                )
            elif kind == PUSH_PROMISE:
                raise Closed("the server pushes, which our settings forbid")
        except struct.error:
            raise Closed(f"malformed frame of type {kind}") from None
        # Unknown types must be ignored; header blocks we don't read.
        return []

    def _data(self, flags: int, payload: bytes) -> list[bytes]:
        if payload:
            credit = _WORD.pack(len(payload))
            self._out.append(frame(WINDOW_UPDATE, 0, 0, credit) + frame(WINDOW_UPDATE, 0, STREAM, credit))
        if flags & PADDED:
            if not payload or payload[0] >= len(payload):
                raise Closed("malformed padding")
            payload = payload[1 : len(payload) - payload[0]]
        self._message += payload
        messages = []
        while len(self._message) >= _GRPC.size:
            compressed, length = _GRPC.unpack_from(self._message)
            if compressed or length > 4 << 20:
                raise Closed("compressed or oversized message")
            if len(self._message) < _GRPC.size + length:
                break
            messages.append(bytes(self._message[_GRPC.size : _GRPC.size + length]))
            del self._message[: _GRPC.size + length]
        if flags & END_STREAM:
            raise Closed("the server ended the stream")
        return messages

    def _settings(self, payload: bytes) -> None:
        for name, value in _SETTING.iter_unpack(payload):
            if name == SETTINGS_INITIAL_WINDOW_SIZE:
                if value > _MAX_WINDOW:
                    raise Closed("window too large")
                # Applies to what was sent already, too: the window may become negative.
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif name == SETTINGS_MAX_FRAME_SIZE:
                self._max_frame = max(MAX_FRAME, value)
        self._out.append(frame(SETTINGS, ACK, 0, b""))
        self._flush()

    def _credit(self, stream: int, amount: int) -> None:
        if stream == 0:
            self._connection_window += amount
        elif stream == STREAM:
            self._stream_window += amount
        self._flush()

    def _flush(self) -> None:
        while self._queue:
            room = min(self._connection_window, self._stream_window, self._max_frame)
            if room <= 0:
                return
            data = self._queue.popleft()
            part, rest = data[:room], data[room:]
            if rest:
                self._queue.appendleft(rest)
            self._connection_window -= len(part)
            self._stream_window -= len(part)
            self._out.append(frame(DATA, 0, STREAM, part))
