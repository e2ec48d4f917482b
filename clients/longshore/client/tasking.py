"""Several coroutines at once, of which the first failure is the result."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any


async def run_all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all of it; the first failure cancels the rest, waits for it, and is raised as it is (no group)."""
    tasks = [asyncio.create_task(part) for part in work]
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await cancel_all(tasks)


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel what runs and wait until it has ended."""
    found = list(tasks)
    for task in found:
        task.cancel()
    await asyncio.gather(*found, return_exceptions=True)
