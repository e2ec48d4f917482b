"""Where archives come from: a request's body as the file that a thread reads, or an address."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from longshore.api.errors import InvalidArgument
from longshore.dockerd.errors import ServerError

_BLOCK: Final = 1 << 20  # bytes
_WAIT: Final = 3600.0  # seconds: a client that sends nothing for so long is gone


@asynccontextmanager
async def download(source: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """What is at an address, which may be without ``http://``. Raises InvalidArgument, ServerError."""
    import aiohttp

    url = source if "://" in source else f"http://{source}"
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"invalid url: {source}")
    try:
        async with aiohttp.ClientSession(trust_env=True) as session, session.get(url) as response:
            if response.status != HTTPStatus.OK:
                raise ServerError(f"Got HTTP status code >= 400: {response.status} {response.reason}")
            yield response.content.iter_chunked(_BLOCK)
    except (aiohttp.ClientError, OSError) as error:
        raise ServerError(f"Get {url}: {error}") from None


class BodyFile(io.RawIOBase):
    """`read` blocks the calling thread, never the event loop, which must be another's.

    Wrap it: ``io.BufferedReader(BodyFile(call.body()))``.
    """

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(self._next())
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _next(self) -> bytes:
        """The next block that isn't empty; b"" at the end."""
        return asyncio.run_coroutine_threadsafe(self._block(), self._loop).result(_WAIT)

    async def _block(self) -> bytes:
        async for block in self._body:
            if block:
                return block
        return b""
