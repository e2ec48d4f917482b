"""The store: who sees what, what survives, and what an error takes with it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from longshore.api import errors
from longshore.api.events.container_pb2 import ContainerDelete
from longshore.containerd.metadata import schema
from longshore.containerd.metadata.store import Event, Store, Transaction


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(tmp_path / "meta.sqlite")
    yield made
    made.close()


def insert(transaction: Transaction, name: str) -> None:
    transaction.execute("INSERT INTO namespaces (name) VALUES (?)", (name,))


def names(store: Store) -> list[str]:
    return store.read(
        lambda connection: [
            name for (name,) in connection.execute("SELECT name FROM namespaces ORDER BY name")
        ]
    )


async def test_a_write_is_seen_by_reads_once_it_is_answered(store: Store) -> None:
    await store.write(lambda transaction: insert(transaction, "a"))
    assert names(store) == ["a"]
    counted = await store.read_in_thread(
        lambda connection: connection.execute("SELECT count(*) FROM namespaces").fetchone()
    )
    assert counted == (1,)


async def test_a_reader_that_raised_does_not_freeze_the_view_of_later_ones(store: Store) -> None:
    def half(connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT name FROM namespaces")
        next(rows)
        raise KeyError(rows)

    for name in ("a", "b"):
        await store.write(partial(insert, name=name))
    kept: list[BaseException] = []
    for _ in range(8):
        with pytest.raises(KeyError) as caught:
            await store.read_in_thread(half)
        kept.append(caught.value)
    with pytest.raises(KeyError) as caught:
        store.read(half)
    kept.append(caught.value)
    await store.write(lambda transaction: insert(transaction, "c"))
    assert names(store) == ["a", "b", "c"]
    for _ in range(8):
        assert await store.read_in_thread(
            lambda c: c.execute("SELECT count(*) FROM namespaces").fetchone()
        ) == (3,)


async def test_queued_writes_share_a_transaction_and_see_each_other(store: Store) -> None:
    def second(transaction: Transaction) -> int:
        return len(transaction.query("SELECT 1 FROM namespaces"))

    _, seen = await asyncio.gather(
        store.write(lambda transaction: insert(transaction, "a")), store.write(second)
    )
    assert seen == 1


async def test_an_exception_undoes_its_own_function_only(store: Store) -> None:
    def half(transaction: Transaction) -> None:
        insert(transaction, "half")
        raise errors.NotFound("gone: not found")

    outcomes = await asyncio.gather(
        store.write(lambda transaction: insert(transaction, "a")),
        store.write(half),
        store.write(lambda transaction: insert(transaction, "b")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], errors.NotFound)
    assert names(store) == ["a", "b"]


async def test_a_failed_commit_fails_its_members_and_nothing_else(store: Store) -> None:
    """A deferred foreign key is the one way to make COMMIT itself fail without filling a disk."""

    def prepare(transaction: Transaction) -> None:
        transaction.execute(
            "CREATE TABLE child (parent TEXT REFERENCES namespaces (name) DEFERRABLE INITIALLY DEFERRED)"
        )

    await store.write(prepare)
    store._writer_connection.execute("PRAGMA foreign_keys = ON")
    outcomes = await asyncio.gather(
        store.write(lambda transaction: insert(transaction, "a")),
        store.write(lambda transaction: transaction.execute("INSERT INTO child VALUES ('nobody')")),
        return_exceptions=True,
    )
    assert all(isinstance(outcome, Exception) for outcome in outcomes), outcomes
    assert names(store) == []
    await store.write(lambda transaction: insert(transaction, "a"))
    assert names(store) == ["a"]


async def test_what_follows_a_commit_happens_before_the_caller_goes_on(store: Store) -> None:
    happened: list[str] = []

    def write(transaction: Transaction) -> None:
        transaction.after_commit(lambda: happened.append("after"))
        assert not happened

    await store.write(write)
    assert happened == ["after"]


async def test_nothing_follows_a_function_that_failed(store: Store) -> None:
    happened: list[str] = []

    def write(transaction: Transaction) -> None:
        transaction.after_commit(lambda: happened.append("after"))
        transaction.publish("ns", "/a", ContainerDelete(id="x"))
        raise KeyError("no")

    store.on_events(lambda events: happened.append("events"))
    with pytest.raises(KeyError):
        await store.write(write)
    assert happened == []


async def test_events_come_in_order_without_gaps_and_only_once_per_source(store: Store) -> None:
    seen: list[Event] = []
    store.on_events(seen.extend)

    def publish(transaction: Transaction) -> list[bool]:
        event = ContainerDelete(id="x")
        return [
            transaction.publish("ns", "/a", event),
            transaction.publish("ns", "/a", event, source=("shim", 1)),
            transaction.publish("ns", "/a", event, source=("shim", 1)),
            transaction.publish("ns", "/a", event, source=("shim", 2), time_ns=5),
        ]

    assert await store.write(publish) == [True, True, False, True]
    assert [event.sequence for event in seen] == [1, 2, 3]
    assert seen[-1].time_ns == 5


async def test_a_cancelled_caller_does_not_stop_its_write(store: Store) -> None:
    task = asyncio.create_task(store.write(lambda transaction: insert(transaction, "a")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.write(lambda transaction: insert(transaction, "b"))
    assert names(store) == ["a", "b"]


async def test_leasing_needs_the_lease(store: Store) -> None:
    with pytest.raises(errors.NotFound, match=r"^lease does not exist: not found$"):
        await store.write(lambda transaction: transaction.lease_resource("ns", "nope", "content", "d"))
    await store.write(lambda transaction: transaction.lease_resource("ns", "", "content", "d"))


async def test_it_opens_what_it_wrote_and_refuses_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "meta.sqlite"
    first = Store(path)
    await first.write(lambda transaction: insert(transaction, "a"))
    first.close()
    with pytest.raises(errors.Unavailable):
        await first.write(lambda transaction: None)
    second = Store(path)
    assert names(second) == ["a"]
    await second.write(lambda transaction: transaction.execute("UPDATE meta SET value = '99'"))
    second.close()
    with pytest.raises(errors.FailedPrecondition, match="schema version 99"):
        Store(path)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(errors.FailedPrecondition, match="not a database of Longshore"):
        Store(other)


def test_the_schema_says_which_migration_leads_to_it() -> None:
    assert len(schema.MIGRATIONS) == schema.VERSION - 1
