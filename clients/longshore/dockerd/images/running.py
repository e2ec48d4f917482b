"""Work that reports lines while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

Line = dict[str, Any]
Say = Callable[[Line], None]

LINES_KEPT: Final = 1000  # for a client that reads slowly; beyond them bars are left out


async def lines_of(work: Callable[[Say], Awaitable[None]]) -> AsyncIterator[Line]:
    """What `work` says, as it says it; then its error, if it failed. Leaving early cancels it and waits for that."""
    said: asyncio.Queue[Line | None] = asyncio.Queue()

    def say(line: Line) -> None:
        if said.qsize() < LINES_KEPT or "progress" not in line:
            said.put_nowait(line)

    async def run() -> None:
        try:
            await work(say)
        finally:
            said.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (line := await said.get()) is not None:
            yield line
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
