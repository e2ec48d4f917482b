"""Removing garbage from the database, in one transaction. Files go later: their names are put into the trash tables."""

from __future__ import annotations

from collections.abc import Iterable

from longshore.api.events.image_pb2 import ImageDelete
from longshore.api.events.snapshot_pb2 import SnapshotRemove
from longshore.containerd.content import trash
from longshore.containerd.gc import edges, mark
from longshore.containerd.gc.mark import Node
from longshore.containerd.metadata.store import Transaction


def sweep(transaction: Transaction, now: int, held: Iterable[Node]) -> list[Node]:
    """Mark again, with all that was written meanwhile, and remove what isn't marked; that is the answer."""
    garbage = transaction.using(lambda connection: mark.garbage(connection, now, held))
    for node in garbage:
        _remove(transaction, node)
        edges.drop(transaction, node.namespace, node.kind, node.id)
    return garbage


def _remove(transaction: Transaction, node: Node) -> None:
    kind, _, snapshotter = node.kind.partition("/")
    if kind == "snapshots":
        _remove_snapshot(transaction, node, snapshotter)
    else:
        _REMOVALS[kind](transaction, node)


def _remove_content(transaction: Transaction, node: Node) -> None:
    transaction.execute("DELETE FROM blobs WHERE namespace = ? AND digest = ?", (node.namespace, node.id))
    trash.put_blob(transaction, node.id)


def _remove_ingest(transaction: Transaction, node: Node) -> None:
    statement = "DELETE FROM ingests WHERE namespace = ? AND ref = ? RETURNING directory"
    for (directory,) in transaction.query(statement, (node.namespace, node.id)):
        trash.put_ingest(transaction, directory)


def _remove_snapshot(transaction: Transaction, node: Node, snapshotter: str) -> None:
    statement = "DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND key = ? RETURNING number"
    for (number,) in transaction.query(statement, (node.namespace, snapshotter, node.id)):
        transaction.execute("INSERT INTO snapshots_trash VALUES (?, ?)", (snapshotter, number))
    event = SnapshotRemove(key=node.id, snapshotter=snapshotter)
    transaction.publish(node.namespace, "/snapshot/remove", event)


def _remove_image(transaction: Transaction, node: Node) -> None:
    transaction.execute("DELETE FROM images WHERE namespace = ? AND name = ?", (node.namespace, node.id))
    transaction.publish(node.namespace, "/images/delete", ImageDelete(name=node.id))


def _remove_lease(transaction: Transaction, node: Node) -> None:
    transaction.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (node.namespace, node.id))
    transaction.execute(
        "DELETE FROM lease_resources WHERE namespace = ? AND lease = ?", (node.namespace, node.id)
    )


_REMOVALS = {
    "content": _remove_content,
    "images": _remove_image,
    "ingests": _remove_ingest,
    "leases": _remove_lease,
}
