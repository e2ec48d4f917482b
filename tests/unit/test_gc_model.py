"""What is garbage, and why: the one query against a model in plain Python, on generated graphs."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from longshore.containerd.gc import edges, explain, mark
from longshore.containerd.gc.mark import Node
from longshore.containerd.metadata import schema
from longshore.containerd.metadata.store import Transaction
from support.gcgraphs import GC, HOUR, Graph, Ingest, Lease, Snapshot, graphs, hours_ago, stored, survivors
from support.soak import times


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in schema.SCHEMA.split(";"):
        connection.execute(statement)
    yield connection
    connection.close()


@settings(max_examples=times(80, 3000), deadline=None, suppress_health_check=list(HealthCheck))
@given(one=graphs(), two=graphs())
def test_what_goes_and_why(database: sqlite3.Connection, one: Graph, two: Graph) -> None:
    now = time.time_ns()
    worlds = {"one": one, "two": two}
    database.execute("BEGIN")
    try:
        transaction = Transaction(database)
        for namespace, graph in worlds.items():
            stored(transaction, namespace, graph, now)
        edges.rebuild(transaction)
        garbage = mark.garbage(database, now, [])
        expected = {
            (name, *key) for name, graph in worlds.items() for key in graph.objects() - survivors(graph, now)
        }
        assert set(garbage) == expected and len(garbage) == len(expected)
        explained(database, worlds, garbage, now)
    finally:
        database.execute("ROLLBACK")


def explained(database: sqlite3.Connection, worlds: dict[str, Graph], garbage: list[Node], now: int) -> None:
    """Explanations agree with the query, and each link of a chain is true."""
    for namespace, graph in worlds.items():
        for kind, id in graph.objects():
            node = Node(namespace, kind, id)
            found = explain.explain(database, node, now, [])
            assert bool(found.chain) == (node not in garbage)
            if not found.chain:
                assert found.notes
                continue
            assert found.chain[-1].node == node
            for before, after in zip(found.chain, found.chain[1:], strict=False):
                assert linked(database, before.node, after.node, after.why)


def linked(database: sqlite3.Connection, before: Node, after: Node, why: str) -> bool:
    if why.startswith("leased"):
        where = "lease = ? AND type = ? AND id = ?"
        found = database.execute(
            f"SELECT 1 FROM lease_resources WHERE namespace = ? AND {where}",
            (before.namespace, before.id, *after[1:]),
        )
    else:
        where = "from_kind = ? AND from_id = ? AND to_kind = ? AND to_id = ? AND why = ?"
        found = database.execute(
            f"SELECT 1 FROM edges WHERE namespace = ? AND {where}", (*before, *after[1:], why)
        )
    return found.fetchone() is not None


@settings(max_examples=times(30, 500), deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs())
def test_what_running_calls_hold_is_kept_with_all_below(database: sqlite3.Connection, graph: Graph) -> None:
    now = time.time_ns()
    database.execute("BEGIN")
    try:
        stored(Transaction(database), "one", graph, now)
        edges.rebuild(Transaction(database))
        garbage = mark.garbage(database, now, [])
        for node in garbage[:3]:
            left = mark.garbage(database, now, [node])
            assert node not in left and set(left) < set(garbage)
    finally:
        database.execute("ROLLBACK")


def test_a_snapshots_key_may_hold_anything(database: sqlite3.Connection) -> None:
    """The key of an unpacked layer has a space, and a digest a colon; nothing is parsed."""
    graph = Graph()
    keys = ["extract-1 sha256:1", "a/b|c", "quote \"'", "\u00e9\n"]
    for key in keys:
        graph.snapshots.append(Snapshot("overlayfs", key, "", False, {}))
        graph.containers[f"c{len(graph.containers)}"] = ("overlayfs", key, {})
    database.execute("BEGIN")
    try:
        stored(Transaction(database), "one", graph, 1)
        edges.rebuild(Transaction(database))
        assert mark.garbage(database, time.time_ns(), []) == []
    finally:
        database.execute("ROLLBACK")


def test_the_next_expiry(database: sqlite3.Connection) -> None:
    graph = Graph()
    now = time.time_ns()
    graph.leases["l"] = Lease({GC + "expire": "2999-01-01T00:00:00Z"})
    graph.ingests["r"] = Ingest("", False)  # an hour from now
    database.execute("BEGIN")
    try:
        stored(Transaction(database), "one", graph, now)
        edges.rebuild(Transaction(database))
        assert mark.next_expiry(database, now) == now + HOUR
        assert (mark.next_expiry(database, now + HOUR + 1) or 0) > now + 100 * HOUR
        used = hours_ago(1)
        condition = {GC + "cond.snapshot.overlayfs": "usedat<90m|s"}
        extra = Graph(
            blobs={"sha256:1": condition},
            snapshots=[Snapshot("overlayfs", "s", "", True, {GC + "cond.value-usedat": used})],
        )
        stored(Transaction(database), "two", extra, now)
        edges.rebuild(Transaction(database))
        assert abs((mark.next_expiry(database, now) or 0) - (now + HOUR // 2)) < HOUR // 4
    finally:
        database.execute("ROLLBACK")


def test_the_model_knows_the_simplest_case() -> None:
    graph = Graph(blobs={"a": {}, "b": {}}, images={"i": ("a", {})})
    assert survivors(graph, 0) == {("content", "a"), ("images", "i")}
