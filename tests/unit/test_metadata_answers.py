"""Kept answers of List calls: never older than the rows, and never more of them than there may be."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from longshore.api import errors
from longshore.containerd.metadata import answers, records
from longshore.containerd.metadata.answers import LISTED, Answers
from longshore.containerd.metadata.store import Store, Transaction

COLUMNS = {"images": "name, target", "containers": "id", "leases": "id", "sandboxes": "id"}
KEYS = {table: columns.partition(",")[0] for table, columns in COLUMNS.items()}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(tmp_path / "meta.sqlite")
    yield made
    made.close()


def seen(record: bytes) -> Callable[[Sequence[str]], str | None]:
    return lambda path: record.decode() if path[0] == "id" else None


async def answer(store: Store, table: str, *filters: str) -> bytes:
    return await records.answer(store, table, KEYS[table], "n", filters, seen)


def put(transaction: Transaction, table: str, id: str, record: bytes) -> None:
    values = (id, "t") if table == "images" else (id,)
    marks = ", ".join("?" * len(values))
    transaction.execute(
        f"INSERT INTO {table} (namespace, record, {COLUMNS[table]}) VALUES ('n', ?, {marks})",
        (record, *values),
    )


def run(transaction: Transaction, statement: str, parameters: Sequence[str] = ()) -> None:
    transaction.execute(statement, parameters)


def wire(*stored: bytes) -> bytes:
    return b"".join(b"\x0a" + bytes([len(record)]) + record for record in stored)


@pytest.mark.parametrize("table", LISTED)
async def test_whatever_changes_a_row_changes_the_answer(store: Store, table: str) -> None:
    assert await answer(store, table) == b""
    await store.write(partial(put, table=table, id="a", record=b"1"))
    assert await answer(store, table) == wire(b"1")
    changes = {
        f"UPDATE {table} SET record = x'32'": wire(b"2"),
        f"INSERT OR REPLACE INTO {table} (namespace, record, {COLUMNS[table]})"
        f" SELECT namespace, x'33', {COLUMNS[table]} FROM {table}": wire(b"3"),
        f"DELETE FROM {table}": b"",
    }
    for statement, wanted in changes.items():
        await store.write(partial(run, statement=statement))
        assert await answer(store, table) == wanted


async def test_an_answer_is_kept_while_other_tables_change(store: Store) -> None:
    await store.write(partial(put, table="images", id="a", record=b"1"))
    first = await answer(store, "images")
    await store.write(partial(put, table="leases", id="a", record=b"1"))
    assert await answer(store, "images") is first
    assert await answer(store, "images", "id==2") == b""
    assert await answer(store, "images", "id==1") == first
    with pytest.raises(errors.InvalidArgument):
        await answer(store, "images", "id==")


async def test_what_is_undone_changes_nothing(store: Store) -> None:
    def fail(transaction: Transaction) -> None:
        put(transaction, "images", "a", b"1")
        raise KeyError("a")

    assert await answer(store, "images") == b""
    with pytest.raises(KeyError):
        await store.write(fail)
    assert await answer(store, "images") == b""


async def test_rows_that_are_being_changed_are_read_each_time(store: Store) -> None:
    """Neither is the old answer given any more, nor is one kept that may be of before the commit."""
    changed, go_on = threading.Event(), threading.Event()

    def slow(transaction: Transaction) -> None:
        put(transaction, "images", "b", b"2")
        changed.set()
        assert go_on.wait(60)

    await store.write(partial(put, table="images", id="a", record=b"1"))
    before = await answer(store, "images")
    writing = asyncio.create_task(store.write(slow))
    await asyncio.to_thread(changed.wait, 60)
    assert store.answers.get("images", ("n",)) is None
    assert await answer(store, "images") == before
    assert store.answers.get("images", ("n",)) is None
    go_on.set()
    await writing
    assert await answer(store, "images") == wire(b"1", b"2")


async def test_an_answer_of_before_a_change_is_not_kept(store: Store) -> None:
    stamp = store.answers.stamp("images")
    await store.write(partial(put, table="images", id="a", record=b"1"))
    store.answers.keep("images", ("n",), b"", stamp)
    assert await answer(store, "images") == wire(b"1")


async def test_random_changes_against_the_rows(store: Store) -> None:
    rng = random.Random(7)
    for step in range(300):
        id = f"c{rng.randrange(5)}"
        if rng.random() < 0.4:
            statement = rng.choice(
                ("DELETE FROM containers WHERE id = ?", "UPDATE containers SET record = x'30' WHERE id = ?")
            )
            await store.write(partial(run, statement=statement, parameters=(id,)))
        elif rng.random() < 0.4:
            with contextlib.suppress(sqlite3.IntegrityError):  # there is one
                await store.write(partial(put, table="containers", id=id, record=b"%d" % (step % 10)))
        filters = rng.choice(((), ("id==0",), ("id!=0",)))
        fresh = await records.select(store, "containers", "id", "n", filters, seen)
        assert await answer(store, "containers", *filters) == wire(*fresh)


async def test_bounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST", 3)
    monkeypatch.setattr(answers, "MOST_BYTES", 10)
    kept: Answers = store.answers

    def keep(key: str, size: int) -> None:
        kept.keep("images", (key,), bytes(size), kept.stamp("images"))

    def there() -> str:
        return "".join(key for key in "abcd" if kept.get("images", (key,)) is not None)

    for key in "abcd":
        keep(key, 2)
    assert (there(), kept.size) == ("bcd", 6)
    keep("a", 6)
    assert (there(), kept.size) == ("acd", 10)
    keep("a", 11)
    assert (there(), kept.size) == ("cd", 4)
    await store.write(partial(put, table="images", id="a", record=b"1"))
    kept.forget_unused()
    assert kept.size == 0
    keep("a", 2)
    monkeypatch.setattr(answers, "KEPT_FOR", 0.0)
    kept.forget_unused()
    assert kept.size == 0
