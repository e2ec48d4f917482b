"""Just enough of HTTP/1.1 to be scraped: GET, one answer a request, the connection closed after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import structlog

log = structlog.get_logger("monitoring")

_LARGEST_HEAD: Final = 16 << 10
_SECONDS: Final = 10.0  # for a client to say what it wants, and to take the answer


class Page(NamedTuple):
    """An answer; `kind` is its content type."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"


Handler = Callable[[], Awaitable[Page]]


class Pages:
    """Serves `pages` by path. Listen with `tcp` or `unix`; `close` ends it."""

    def __init__(self, pages: Mapping[str, Handler]) -> None:
        self._pages = pages
        self._servers: list[asyncio.Server] = []

    async def tcp(self, address: str) -> None:
        """HOST:PORT. Raises OSError, ValueError."""
        host, _, port = address.rpartition(":")
        self._servers.append(
            await asyncio.start_server(self._serve, host.strip("[]") or None, int(port), limit=_LARGEST_HEAD)
        )

    async def unix(self, path: str) -> None:
        """Raises OSError."""
        self._servers.append(await asyncio.start_unix_server(self._serve, path, limit=_LARGEST_HEAD))

    @property
    def port(self) -> int:
        """Of the first TCP listener, for those who asked for port 0."""
        found: int = self._servers[0].sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(400, Page(b"bad request\n"))
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _response(405, Page(b"only GET\n"))
        handler = self._pages.get(unquote(urlsplit(target).path))
        if handler is None:
            return _response(404, Page(b"404 page not found\n"))
        try:
            page = await handler()
        except Exception as error:
            log.error("page failed", path=target, exc_info=error)
            return _response(500, Page(b"internal error\n"))
        return _response(200, page, body=method == "GET")


_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
}


def _response(status: int, page: Page, *, body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {page.kind}\r\n"
        f"Content-Length: {len(page.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (page.body if body else b"")
