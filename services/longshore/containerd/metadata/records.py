"""Lists of records that are stored as bytes: filtered in a thread, and decoded only when a filter asks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence

from longshore.containerd import filters as filtering
from longshore.containerd.metadata.store import Store
from longshore.containerd.rpc import field

See = Callable[[bytes], filtering.Lookup]
"""What a filter sees of a record."""


async def select(
    store: Store, table: str, order: str, namespace: str, filters: Sequence[str], see: See
) -> list[bytes]:
    """The records of a namespace that pass the filters, sorted by the column `order`.

    Raises InvalidArgument for a bad filter.
    """
    return await store.read_in_thread(
        lambda connection: list(_passing(connection, table, order, namespace, filters, see))
    )


async def answer(
    store: Store, table: str, order: str, namespace: str, filters: Sequence[str], see: See
) -> bytes:
    """`select` as a serialised message: the records are its field 1. Kept for who asks again while nothing changes."""
    key = (namespace, *filters)
    data = store.answers.get(table, key)
    if data is None:
        stamp = store.answers.stamp(table)
        data = await store.read_in_thread(
            lambda connection: b"".join(
                field(1, record) for record in _passing(connection, table, order, namespace, filters, see)
            )
        )
        store.answers.keep(table, key, data, stamp)
    return data


def _passing(
    connection: sqlite3.Connection, table: str, order: str, namespace: str, filters: Sequence[str], see: See
) -> Iterator[bytes]:
    keep = None if filtering.matches_all(filters) else filtering.of_records(filters)
    statement = f"SELECT record FROM {table} WHERE namespace = ? ORDER BY {order}"
    for (record,) in connection.execute(statement, (namespace,)):
        if keep is None or keep(see(record)):
            yield record
