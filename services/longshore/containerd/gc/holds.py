"""What running calls need, whether anything else keeps it or not: no collection takes it from under them.

A snapshot that is being unpacked without a lease is garbage by the rules, but
not in the middle of the call. Holds live in memory, for a daemon that dies has
no running calls.

A sweep decides in the writer thread upon the holds there were when it was
queued. A call that first looks (a parent is there) and writes later (a child of
it) takes its hold between two sweeps, with `hold`. Calls that only write need
none: the store puts them before or behind the sweep.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager

from longshore.containerd.gc.mark import Node


class Holds:
    """Used on the event loop only. `on_release` is called when something that only a hold saved is let go."""

    def __init__(self) -> None:
        self._nodes: Counter[Node] = Counter()
        self._saved: set[Node] = set()
        self._sweeping: asyncio.Event | None = None
        self.on_release: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def hold(self, *nodes: Node) -> AsyncGenerator[None, None]:
        """Keep these for the block; begins when no sweep is under way."""
        async with self.hold_found(lambda: nodes):
            yield

    @asynccontextmanager
    async def hold_found(self, find: Callable[[], Sequence[Node]]) -> AsyncGenerator[None, None]:
        """Keep for the block what `find`, called when no sweep is under way, returns."""
        await self.between_sweeps()
        nodes = find()
        self.take(nodes)
        try:
            yield
        finally:
            self.release(nodes)

    async def between_sweeps(self) -> None:
        """Return when no sweep is under way; what follows without awaiting comes before the next one."""
        while self._sweeping is not None:
            await self._sweeping.wait()

    def take(self, nodes: Iterable[Node]) -> None:
        self._nodes.update(nodes)

    def release(self, nodes: Iterable[Node]) -> None:
        """Undo `take` of the same nodes."""
        saved = False
        for node in nodes:
            self._nodes[node] -= 1
            if self._nodes[node] <= 0:
                del self._nodes[node]
                saved |= node in self._saved
                self._saved.discard(node)
        if saved:
            self.on_release()

    def held(self) -> list[Node]:
        """What a collection must respect while it only looks."""
        self._saved.update(self._nodes)
        return list(self._nodes)

    @contextmanager
    def sweep(self) -> Generator[list[Node], None, None]:
        """The holds that a sweep must respect; nobody gets a new one before it is over."""
        done = self._sweeping = asyncio.Event()
        try:
            yield self.held()
        finally:
            self._sweeping = None
            done.set()
