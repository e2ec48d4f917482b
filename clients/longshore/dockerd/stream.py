"""Bytes both ways, each way ended by itself: unix and TCP sockets, and TLS on top of either.

asyncio's own TLS can't do what a hijacked connection needs: there, the end of
one direction ends both. So TLS runs here on two memory buffers: a client's
close_notify is the end of what it sends and nothing more, and ours likewise.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from abc import abstractmethod
from collections import deque
from typing import Final, Protocol

READ_AHEAD: Final = 256 * 1024  # bytes kept for a reader that doesn't come; then the client has to wait
BLOCK: Final = 64 * 1024


class Stream(Protocol):
    """A connection. One task reads, another may write meanwhile."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """For logs: "unix", or host and port."""

    @abstractmethod
    async def read(self) -> bytes:
        """The next bytes; b"" once the client has ended its direction. ConnectionError when all is lost."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Returns when the client's window has room again; ConnectionError once it is gone."""

    @abstractmethod
    async def close_write(self) -> None:
        """End our direction; reading goes on."""

    @abstractmethod
    async def close(self) -> None:
        """End both, after what was written is on its way."""

    @abstractmethod
    async def gone(self) -> None:
        """Return when the connection is lost as a whole."""


class Plain(asyncio.Protocol):
    """A `Stream` of a socket, and its asyncio protocol."""

    def __init__(self) -> None:
        self._peer = ""
        self._transport: asyncio.Transport | None = None
        self._arrived: deque[bytes] = deque()
        self._held = 0
        self._eof = False
        self._error: Exception | None = None
        self._lost: asyncio.Future[None] | None = None
        self._hangup: select.epoll | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._lost = asyncio.get_running_loop().create_future()
        name = transport.get_extra_info("peername")
        self._peer = "{}:{}".format(*name) if isinstance(name, tuple) else "unix"

    def data_received(self, data: bytes) -> None:
        self._arrived.append(data)
        self._held += len(data)
        if self._held > READ_AHEAD and self._transport is not None:
            self._transport.pause_reading()
        self._readable.set()

    def eof_received(self) -> bool:
        self._eof = True
        self._readable.set()
        self._watch_hangup()
        return True  # our direction stays open

    def _watch_hangup(self) -> None:
        """asyncio looks no more at a socket that has come to its end; the kernel still tells when all of it has."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or sock.fileno() < 0:
            return
        self._hangup = select.epoll(1)
        self._hangup.register(sock.fileno(), 0)  # EPOLLHUP and EPOLLERR come unasked
        asyncio.get_running_loop().add_reader(self._hangup.fileno(), self.abort)

    def _forget_hangup(self) -> None:
        if self._hangup is not None:
            asyncio.get_running_loop().remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None

    def connection_lost(self, error: Exception | None) -> None:
        self._forget_hangup()
        self._error = error or ConnectionResetError("the connection is closed")
        self._readable.set()
        self._writable.set()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- ours

    @property
    def peer(self) -> str:
        return self._peer

    async def read(self) -> bytes:
        while not self._arrived:
            if self._eof:
                return b""
            if self._error is not None:
                raise ConnectionResetError(str(self._error))
            self._readable.clear()
            await self._readable.wait()
        data = b"".join(self._arrived) if len(self._arrived) > 1 else self._arrived[0]
        self._arrived.clear()
        if self._held > READ_AHEAD and self._error is None and self._transport is not None and not self._eof:
            self._transport.resume_reading()
        self._held = 0
        return data

    async def write(self, data: bytes) -> None:
        transport = self._open()
        transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()
            self._open()

    def _open(self) -> asyncio.Transport:
        if self._error is not None or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError(str(self._error or "the connection is closed"))
        return self._transport

    async def close_write(self) -> None:
        if self._error is None and self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop what is unsent."""
        self._forget_hangup()
        if self._transport is not None:
            self._transport.abort()

    async def gone(self) -> None:
        assert self._lost is not None
        await asyncio.shield(self._lost)


class TLS:
    """A `Stream` over another; make it with `accept`."""

    def __init__(self, below: Plain, context: ssl.SSLContext) -> None:
        self._below = below
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._ahead: deque[bytes] = deque()
        self._read_ended = self._write_ended = False
        self._flushing = asyncio.Lock()

    @property
    def peer(self) -> str:
        return self._below.peer

    @classmethod
    async def accept(cls, below: Plain, context: ssl.SSLContext) -> TLS:
        """Shake hands. ssl.SSLError or ConnectionError if that fails; the client has been told why, then."""
        stream = cls(below, context)
        while True:
            try:
                stream._tls.do_handshake()
            except ssl.SSLWantReadError:
                await stream._flush()
                await stream._fill()
            except ssl.SSLError:
                await stream._flush()  # the alert
                raise
            else:
                await stream._flush()
                return stream

    async def read(self) -> bytes:
        if self._ahead:
            return self._ahead.popleft()
        while not self._read_ended:
            try:
                data = self._tls.read(BLOCK)
            except ssl.SSLWantReadError:
                await self._flush()  # an answer of the protocol's own, to a key update
                await self._fill()
            except ssl.SSLZeroReturnError:
                self._read_ended = True
            except ssl.SSLError as error:
                raise ConnectionResetError(f"TLS: {error.reason or error}") from None
            else:
                if data:
                    return data
                self._read_ended = True
        return b""

    async def _fill(self) -> None:
        data = await self._below.read()
        if data:
            self._in.write(data)
        else:
            # Without close_notify the end may be an attacker's: OpenSSL raises SSLEOFError at the next read.
            self._in.write_eof()

    async def _flush(self) -> None:
        # In the order in which the records were made, whoever made them.
        async with self._flushing:
            if self._out.pending:
                await self._below.write(self._out.read())

    async def write(self, data: bytes) -> None:
        if self._write_ended:
            raise ConnectionResetError("our direction is closed")
        view = memoryview(data)
        for start in range(0, len(view), BLOCK):
            try:
                self._tls.write(view[start : start + BLOCK])
            except ssl.SSLError as error:
                raise ConnectionResetError(f"TLS: {error.reason or error}") from None
            await self._flush()

    async def close_write(self) -> None:
        if self._write_ended:
            return
        self._write_ended = True
        self._read_what_is_here()
        try:
            # close_notify goes out; then it looks for the client's, which may come much later or never.
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        await self._flush()

    def _read_what_is_here(self) -> None:
        """Data that waits in the buffer would be an error for `unwrap`."""
        while not self._read_ended:
            try:
                data = self._tls.read(BLOCK)
            except ssl.SSLZeroReturnError:
                self._read_ended = True
            except ssl.SSLError:
                return
            else:
                self._ahead.append(data)

    async def close(self) -> None:
        try:
            await self.close_write()
        except ConnectionError:
            pass
        await self._below.close()

    async def gone(self) -> None:
        await self._below.gone()
