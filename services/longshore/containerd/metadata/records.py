"""Lists of records that are stored as bytes: filtered in a thread, and decoded only when a filter asks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from longshore.containerd import filters as filtering
from longshore.containerd.metadata.store import Parameter, Store


async def select(
    store: Store,
    statement: str,
    parameters: Sequence[Parameter],
    filters: Sequence[str],
    see: Callable[[bytes], filtering.Lookup],
) -> list[bytes]:
    """The records of a one-column SELECT that pass the filters; `see` says what a filter sees of one.

    Raises InvalidArgument for a bad filter.
    """

    def read(connection: sqlite3.Connection) -> list[bytes]:
        keep = None if filtering.matches_all(filters) else filtering.compile(filters)
        rows = connection.execute(statement, parameters)
        if keep is None:
            return [record for (record,) in rows]
        return [record for (record,) in rows if keep(see(record))]

    return await store.read_in_thread(read)
