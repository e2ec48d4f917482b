"""A client that counts bytes: HTTP by hand over unix, TCP or TLS, where each direction ends by itself."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from typing import Any

SECONDS = 60.0


class Raw:
    """A connection; with `context` it speaks TLS on memory buffers, so that close_notify is a half-close."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext | None = None, name: str = "localhost"
    ) -> None:
        self.socket = sock
        sock.settimeout(SECONDS)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name) if context else None
        self._rest = b""
        if self._tls is not None:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    self._flush()
                    self._fill()
                else:
                    break
            self._flush()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _flush(self) -> None:
        if self._out.pending:
            self.socket.sendall(self._out.read())

    def _fill(self) -> None:
        if data := self.socket.recv(65536):
            self._in.write(data)
        else:
            self._in.write_eof()

    def send(self, data: bytes) -> None:
        if self._tls is None:
            self.socket.sendall(data)
            return
        self._tls.write(data)
        self._flush()

    def half_close(self) -> None:
        """We send no more; we go on reading."""
        if self._tls is None:
            self.socket.shutdown(socket.SHUT_WR)
            return
        # What has come with earlier bytes is taken out first: OpenSSL won't have it after our close_notify.
        with suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while part := self._tls.read(65536):
                self._rest += part
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()

    def receive(self) -> bytes:
        """Some bytes, b"" at the end of what the server sends."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        if self._tls is None:
            return self.socket.recv(65536)
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                self._fill()
            except ssl.SSLZeroReturnError:
                return b""

    def until(self, mark: bytes) -> bytes:
        """All up to and with `mark`. Raises EOFError."""
        data = b""
        while mark not in data:
            if not (part := self.receive()):
                raise EOFError(f"{mark!r} never came, but {data!r}")
            data += part
        head, _, self._rest = data.partition(mark)
        return head + mark

    def everything(self) -> bytes:
        data = b""
        while part := self.receive():
            data += part
        return data

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the next answer."""
        first, *lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if not (part := self.receive()):
                raise EOFError(f"{count} bytes wanted, {len(data)} came")
            data += part
        data, self._rest = data[:count], data[count:] + self._rest
        return data

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer with its body, chunked or counted."""
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, b"".join(self._chunks())
        return status, headers, self.exactly(int(headers.get("content-length", "0")))

    def _chunks(self) -> list[bytes]:
        chunks = []
        while size := int(self.until(b"\r\n"), 16):
            chunks.append(self.exactly(size))
            self.exactly(2)
        self.exactly(2)
        return chunks

    def chunk(self) -> bytes:
        """The next chunk, b"" for the last."""
        size = int(self.until(b"\r\n"), 16)
        data = self.exactly(size)
        self.exactly(2)
        return data

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """A request, and its answer. Underscores in the names of headers are hyphens."""
        self.send(request(method, path, body, **headers))
        return self.answer()


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: docker"]
    if body is not None:
        kind = "text/plain" if isinstance(body, bytes) else "application/json"
        lines += [f"Content-Length: {len(data)}", f"Content-Type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data
