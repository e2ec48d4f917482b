"""The exit stream: shims of ours report their events here, and are told what is safe on disk.

A stream lives as long as its shim's connection. Reports are journalled in
batches: whatever arrived while the last batch was being written is the next; and
a report that others follow soon, as an exit follows a start, waits for them a moment.
See README.md for what happens when either end dies.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

from longshore.api.services.exits.v1.exits_pb2 import ReportRequest, ReportResponse
from longshore.api.services.exits.v1.exits_pb2_grpc import ExitsServicer
from longshore.containerd import rpc

# Reports read ahead of the journal, per stream; beyond it HTTP/2 flow control holds the shim back.
_AHEAD = 256

# What tells of a beginning waits this long (seconds) for what comes next: one flush of the disk, and one answer, for
# both. Nobody's call waits for these, and until they are journalled the shim has them.
_PATIENCE = 0.02
_BEGINNINGS = frozenset(("/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started"))


class Journal(Protocol):
    """What the service needs of `longshore.containerd.tasks.journal.Journal`."""

    async def report(self, reports: Sequence[ReportRequest]) -> None:
        """Journal in order, dropping repeated ones; return when durable."""


class ExitsService(ExitsServicer):
    """Acknowledges what the journal holds."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._queues: set[asyncio.Queue[ReportRequest | None]] = set()

    def stop(self) -> None:
        """End the streams after the batch at hand; shims keep the rest for our successor."""
        for queue in self._queues:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

    @rpc.bidi_stream
    async def Report(
        self, requests: AsyncIterator[ReportRequest], call: rpc.Call
    ) -> AsyncGenerator[ReportResponse, None]:
        """One acknowledgement per batch, cumulative; ends when the shim half-closes.

        A failed write (disk full) ends the stream with its error. The shim
        connects again and re-sends what it has no acknowledgement for.
        """
        queue: asyncio.Queue[ReportRequest | None] = asyncio.Queue(_AHEAD)
        reader = asyncio.get_running_loop().create_task(_read(requests, queue))
        self._queues.add(queue)
        try:
            while batch := await _next_batch(queue):
                await rpc.shielded(self._journal.report(batch))
                yield ReportResponse(acknowledged=batch[-1].sequence)
            if reader.done():
                reader.result()
        finally:
            self._queues.discard(queue)
            reader.cancel()


async def _read(requests: AsyncIterator[ReportRequest], queue: asyncio.Queue[ReportRequest | None]) -> None:
    try:
        async for request in requests:
            await queue.put(request)
    except Exception:
        await queue.put(None)
        raise
    await queue.put(None)


async def _next_batch(queue: asyncio.Queue[ReportRequest | None]) -> list[ReportRequest]:
    """What has arrived, at least one report; [] at the end of the stream."""
    batch: list[ReportRequest] = []
    item = await queue.get()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while item is not None:
                batch.append(item)
                if queue.empty() and item.envelope.topic not in _BEGINNINGS:
                    return batch
                item = await queue.get()
            queue.put_nowait(None)  # for the next call
    return batch
