"""WebSockets (RFC 6455), the server's side: `attach` for browsers. `Frames` has no I/O, `WebSocket` is a `Hijacked`."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from longshore.api.errors import InvalidArgument
from longshore.dockerd.http import Hijacked

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LARGEST: Final = 1 << 20  # bytes of one frame that a client may send

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_CONTROL: Final = (CLOSE, PING, PONG)
_KNOWN: Final = (CONTINUATION, TEXT, BINARY, *_CONTROL)
PROTOCOL_ERROR, TOO_BIG, NORMAL = 1002, 1009, 1000


class Violation(Exception):
    """The client broke the protocol; `code` is what it is told."""

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Frame(NamedTuple):
    opcode: int
    data: bytes


class Frames:
    """Bytes in, frames out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises Violation."""
        self._buffer += data
        found = []
        while (frame := self._next()) is not None:
            found.append(frame)
        return found

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, length = buffer[0] & 0x0F, buffer[1] & 0x7F
        _check(buffer[0], buffer[1])
        start = 2
        if length >= 126:
            form = ">H" if length == 126 else ">Q"
            start += struct.calcsize(form)
            if len(buffer) < start:
                return None
            (length,) = struct.unpack_from(form, buffer, 2)
        if length > LARGEST:
            raise Violation(f"a frame of {length} bytes", TOO_BIG)
        end = start + 4 + length
        if len(buffer) < end:
            return None
        data = _unmasked(bytes(buffer[start : start + 4]), bytes(buffer[start + 4 : end]))
        del buffer[:end]
        return Frame(opcode, data)


def _check(first: int, second: int) -> None:
    opcode, length = first & 0x0F, second & 0x7F
    if first & 0x70 or opcode not in _KNOWN:
        raise Violation(f"an unknown frame ({first:#x})")
    if not second & 0x80:
        raise Violation("a frame of a client that isn't masked")
    if opcode in _CONTROL and (length > 125 or not first & 0x80):
        raise Violation("a control frame in pieces")


def _unmasked(mask: bytes, data: bytes) -> bytes:
    if not data:
        return data
    whole = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(data), "big")


def encoded(opcode: int, data: bytes) -> bytes:
    """A whole frame of a server."""
    first = 0x80 | opcode
    if len(data) < 126:
        return bytes((first, len(data))) + data
    if len(data) < 1 << 16:
        return struct.pack(">BBH", first, 126, len(data)) + data
    return struct.pack(">BBQ", first, 127, len(data)) + data


def handshake(headers: Mapping[str, str]) -> bytes:
    """The head of our answer. InvalidArgument for a request that is no handshake."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("upgrade", "").lower() != "websocket" or not key:
        raise InvalidArgument("this is for websockets: Upgrade and Sec-WebSocket-Key are missing")
    if headers.get("sec-websocket-version", "") != "13":
        raise InvalidArgument("only version 13 of the websocket protocol is known")
    proof = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
    lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")
    return "\r\n".join((*lines, f"Sec-WebSocket-Accept: {proof}", "", "")).encode()


class WebSocket:
    """A `Hijacked`: what the client's messages hold, whatever their borders; `kind` is TEXT or BINARY."""

    def __init__(self, below: Hijacked, kind: int = BINARY) -> None:
        self._below, self._kind = below, kind
        self._frames = Frames()
        self._read_ended = self._write_ended = False

    async def read(self) -> bytes:
        while not self._read_ended:
            data = await self._below.read()
            if not data:
                self._read_ended = True
                break
            try:
                got = await self._payload(self._frames.feed(data))
            except Violation as problem:
                self._read_ended = True
                await self._close(problem.code)
                break
            if got:
                return got
        return b""

    async def _payload(self, frames: list[Frame]) -> bytes:
        data = b""
        for opcode, part in frames:
            if opcode == PING:
                await self._below.write(encoded(PONG, part))
            elif opcode == CLOSE:
                self._read_ended = True
                break
            elif opcode != PONG:
                data += part
        return data

    async def write(self, data: bytes) -> None:
        if data and not self._write_ended:
            await self._below.write(encoded(self._kind, data))

    async def close_write(self) -> None:
        await self._close(NORMAL)

    async def _close(self, code: int) -> None:
        if not self._write_ended:
            self._write_ended = True
            await self._below.write(encoded(CLOSE, struct.pack(">H", code)))

    async def close(self) -> None:
        try:
            await self._close(NORMAL)
        except ConnectionError:
            pass
        await self._below.close()

    async def gone(self) -> None:
        await self._below.gone()
