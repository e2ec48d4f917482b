"""Several things at once, all of them or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def running(works: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks for the block. At its end all must have succeeded: the first failure is raised, as it is.

    When the block or one of them fails, the others are ended, and have ended when it is left.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
