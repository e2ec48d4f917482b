"""A request's body as the file that a thread reads."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any, Final

_WAIT: Final = 3600.0  # seconds: a client that sends nothing for so long is gone


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
