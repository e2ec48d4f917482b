"""TLS whose two directions end separately: close_notify as a half-close, which ssl's own sockets can't do."""

from __future__ import annotations

import socket
import ssl
import threading


class TLSStream:
    """The part of a socket's interface that a hijacked connection uses. One thread reads, another writes."""

    def __init__(self, below: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._below = below
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._ahead = b""
        self._handshake()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
        self._flush()

    def recv(self, count: int) -> bytes:
        """b"" at the end."""
        while True:
            with self._lock:
                if self._ahead:
                    data, self._ahead = self._ahead, b""
                    return data
                try:
                    return self._tls.read(count)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    return b""  # its close_notify, or it just hung up
            self._flush()
            if not self._fill():
                return b""

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), 1 << 14):
            with self._lock:
                self._tls.write(view[start : start + (1 << 14)])
            self._flush()

    def shutdown(self, how: int) -> None:
        """SHUT_WR tells our end; anything else ends the connection."""
        if how != socket.SHUT_WR:
            self._below.shutdown(how)
            return
        with self._lock:
            # What has arrived would be an error for `unwrap`, which looks for the other's close_notify at once.
            self._ahead += self._arrived()
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass
        self._flush()

    def close(self) -> None:
        self._below.close()

    def _arrived(self) -> bytes:
        data = b""
        try:
            while part := self._tls.read(1 << 16):
                data += part
        except ssl.SSLError:
            pass
        return data

    def _fill(self) -> bool:
        data = self._below.recv(1 << 16)
        if data:
            with self._lock:
                self._in.write(data)
        return bool(data)

    def _flush(self) -> None:
        with self._sending:
            with self._lock:
                data = self._out.read()
            if data:
                self._below.sendall(data)
