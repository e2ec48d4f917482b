"""One garbage collection: look, sweep, and let the files go.

It first looks on a reader, which keeps nobody waiting. Only if there is garbage
does it mark again in the writer, where nothing can change meanwhile, and sweep
in the same transaction. Files are removed after that, by the stores that made
them, and only those that the transaction put into their trash. Streams and
mounts, which aren't in the database, go with the lease they were made under.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from longshore.api import errors
from longshore.containerd.gc import mark
from longshore.containerd.gc.holds import Holds
from longshore.containerd.gc.mark import Node
from longshore.containerd.gc.sweep import sweep
from longshore.containerd.metadata.store import Store

log = structlog.get_logger("gc")


# Asks for a collection and waits until it and its files are done; raises what made it fail.
Collect = Callable[[], Awaitable[object]]


class Files(Protocol):
    """Whoever has files of removed objects: the content store, a snapshotter."""

    async def cleanup(self) -> None:
        """Return when the files of all that was removed are gone, or can't be removed for now."""


IsThere = Callable[[str, str], bool]
"""(namespace, lease) -> whether there is such a lease."""


class Tied(Protocol):
    """Whoever has what goes with a lease and is no row of the database: streams, mounts."""

    async def release(self, is_there: IsThere) -> None:
        """Let go of what was made under leases that aren't there any more."""


class Collection(NamedTuple):
    """`moment`: the time of judgement, ns. `pause`: s that writers waited; `seconds`: all but the files."""

    moment: int
    removed: Sequence[Node]
    pause: float
    seconds: float


class Collector:
    """`snapshotters` and `tied` may grow until the daemon serves. Run one collection at a time."""

    def __init__(
        self,
        store: Store,
        holds: Holds,
        content: Files | None,
        snapshotters: Mapping[str, Files],
        tied: Sequence[Tied] = (),
    ) -> None:
        self._store = store
        self._holds = holds
        self._content = content
        self._snapshotters = snapshotters
        self._tied = tied

    async def collect(self) -> Collection:
        """Remove from the database what nothing keeps, and let go of what went with a lease.

        The files are `clean_up`'s.
        """
        done = await self._collect()
        for tied in self._tied:
            try:
                await tied.release(self._has_lease)
            except Exception as error:  # it is tried again at the next collection
                log.warning("what a lease held stays for now", error=str(error))
        return done

    def _has_lease(self, namespace: str, id: str) -> bool:
        statement = "SELECT 1 FROM leases WHERE namespace = ? AND id = ?"
        row = self._store.read(lambda connection: connection.execute(statement, (namespace, id)).fetchone())
        return row is not None

    async def _collect(self) -> Collection:
        moment, begun = time.time_ns(), time.monotonic()
        needed = self._holds.held()
        found = await self._store.read_in_thread(lambda connection: mark.garbage(connection, moment, needed))
        if not found:
            return Collection(moment, (), 0.0, time.monotonic() - begun)
        paused = time.monotonic()
        with self._holds.sweep() as held:
            removed = await self._store.write(
                lambda transaction: sweep(transaction, moment, held), urgent=True
            )
        ended = time.monotonic()
        kinds = Counter(node.kind for node in removed)
        log.info("collected garbage", seconds=round(ended - begun, 4), **dict(sorted(kinds.items())))
        return Collection(moment, removed, ended - paused, ended - begun)

    async def clean_up(self, kinds: set[str] | None = None) -> None:
        """Return when files of removed objects are gone; of these kinds only, or of all."""
        stores: dict[str, Files] = {f"snapshots/{name}": each for name, each in self._snapshotters.items()}
        if self._content is not None:
            stores |= {"content": self._content, "ingests": self._content}
        for kind, files in stores.items():
            if kinds is None or kind in kinds:
                try:
                    await files.cleanup()
                except errors.Unimplemented:
                    pass
                except Exception as error:
                    # What couldn't be removed stays in the trash for the next time.
                    log.warning("files of removed objects stay for now", kind=kind, error=str(error))
