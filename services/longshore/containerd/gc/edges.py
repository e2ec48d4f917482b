"""The edges table: written by whoever writes an object, in the same transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from longshore.api.services.containers.v1.containers_pb2 import Container
from longshore.api.services.images.v1.images_pb2 import Image
from longshore.api.services.leases.v1.leases_pb2 import Lease
from longshore.api.types.sandbox_pb2 import Sandbox
from longshore.containerd.gc import references
from longshore.containerd.gc.references import Edge, Owned
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata.store import Transaction

_OWNED: Final = "FROM edges WHERE namespace = ? AND owner_kind = ? AND owner = ?"
_COLUMNS: Final = "from_kind, from_id, to_kind, to_id, why, flat, until, usedat, span"


def record(transaction: Transaction, namespace: str, owned: Owned) -> None:
    """After an object was made or changed: what it says now, in place of what it said before."""
    known = transaction.query(f"SELECT {_COLUMNS} {_OWNED}", (namespace, owned.kind, owned.id))
    edges = dict.fromkeys(owned.edges)
    gone = {Edge(*row) for row in known} - edges.keys()
    if gone or len(known) != len(edges):
        if known:
            transaction.execute(f"DELETE {_OWNED}", (namespace, owned.kind, owned.id))
        for edge in edges:
            _insert(transaction, namespace, owned, edge)
    if owned.kind.startswith("snapshots/"):
        _record_used(transaction, namespace, owned)
    transaction.changed(deleted=bool(gone))


def forget(transaction: Transaction, namespace: str, kind: str, id: str, *, deleted: bool = True) -> None:
    """After an object was removed. `deleted` is false when another takes its place: nothing is garbage by that."""
    drop(transaction, namespace, kind, id)
    transaction.changed(deleted=deleted)


def drop(transaction: Transaction, namespace: str, kind: str, id: str) -> None:
    """`forget` as a collection does it, after which none is due."""
    transaction.execute(f"DELETE {_OWNED}", (namespace, kind, id))
    if kind.startswith("snapshots/"):
        transaction.execute(
            "DELETE FROM used WHERE namespace = ? AND kind = ? AND id = ?", (namespace, kind, id)
        )


def forget_all(transaction: Transaction, namespace: str, kind: str) -> None:
    """After all of a kind in a namespace were removed."""
    transaction.execute("DELETE FROM edges WHERE namespace = ? AND owner_kind = ?", (namespace, kind))
    transaction.changed(deleted=True)


def _insert(transaction: Transaction, namespace: str, owned: Owned, edge: Edge) -> None:
    transaction.execute(
        f"INSERT INTO edges (namespace, owner_kind, owner, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (namespace, owned.kind, owned.id, *edge),
    )


def _record_used(transaction: Transaction, namespace: str, owned: Owned) -> None:
    where = (namespace, owned.kind, owned.id)
    transaction.execute("DELETE FROM used WHERE namespace = ? AND kind = ? AND id = ?", where)
    for at in owned.used:
        transaction.execute("INSERT INTO used VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (*where, at))


# -- all of them --------------------------------------------------------------------------------------------


def rebuild_if_needed(transaction: Transaction) -> bool:
    """Derive all edges anew if that was never done by the rules of today; whether it was."""
    rules = str(references.RULES)
    if transaction.one("SELECT value FROM meta WHERE key = 'edges'") == (rules,):
        return False
    rebuild(transaction)
    transaction.execute("INSERT OR REPLACE INTO meta VALUES ('edges', ?)", (rules,))
    return True


def rebuild(transaction: Transaction) -> None:
    """The whole table, from the records."""
    transaction.execute("DELETE FROM edges")
    transaction.execute("DELETE FROM used")
    for namespace, owned in _everything(transaction):
        for edge in dict.fromkeys(owned.edges):
            _insert(transaction, namespace, owned, edge)
        if owned.used:
            _record_used(transaction, namespace, owned)


def _everything(transaction: Transaction) -> Iterator[tuple[str, Owned]]:
    for namespace, record in transaction.query("SELECT namespace, record FROM leases"):
        lease = Lease.FromString(record)
        yield namespace, references.of_lease(lease.id, lease.labels)
    for namespace, record in transaction.query("SELECT namespace, record FROM images"):
        yield namespace, of_image(Image.FromString(record))
    for namespace, record in transaction.query("SELECT namespace, record FROM containers"):
        yield namespace, of_container(Container.FromString(record))
    for namespace, record in transaction.query("SELECT namespace, record FROM sandboxes"):
        sandbox = Sandbox.FromString(record)
        yield namespace, references.of_sandbox(sandbox.sandbox_id, sandbox.labels)
    for namespace, digest, labels in transaction.query("SELECT namespace, digest, labels FROM blobs"):
        yield namespace, references.of_content(digest, labelling.loads(labels))
    for namespace, *ingest in transaction.query("SELECT namespace, ref, expected, expires FROM ingests"):
        yield namespace, references.of_ingest(*ingest)
    rows = transaction.query("SELECT namespace, snapshotter, key, parent, labels FROM snapshots")
    for namespace, snapshotter, key, parent, labels in rows:
        yield namespace, references.of_snapshot(snapshotter, key, parent, labelling.loads(labels))


def of_image(image: Image) -> Owned:
    return references.of_image(image.name, image.target.digest, image.labels)


def of_container(container: Container) -> Owned:
    return references.of_container(
        container.id, container.snapshotter, container.snapshot_key, container.labels
    )
