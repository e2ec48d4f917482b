"""Blobs and ingests whose rows are gone and whose files may still be there.

A row gets here in the transaction that removes the last one of a blob, or that
of an ingest, so that no crash leaves a file for ever. `LocalContent.cleanup`
removes the files, and nothing but these.
"""

from __future__ import annotations

from typing import Final

from longshore.containerd.metadata.store import Transaction

BLOB: Final = "blob"
INGEST: Final = "ingest"


def put_blob(transaction: Transaction, digest: str) -> bool:
    """After a namespace's row was removed; False if another namespace has the blob."""
    if transaction.one("SELECT 1 FROM blobs WHERE digest = ? LIMIT 1", (digest,)) is not None:
        return False
    transaction.execute("INSERT INTO content_trash VALUES (?, ?) ON CONFLICT DO NOTHING", (BLOB, digest))
    return True


def put_ingest(transaction: Transaction, directory: str) -> None:
    """After an ingest's row was removed."""
    transaction.execute("INSERT INTO content_trash VALUES (?, ?) ON CONFLICT DO NOTHING", (INGEST, directory))
