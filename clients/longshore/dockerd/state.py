"""What dockerd itself remembers: documents by kind and key, in SQLite.

Containers, networks, leases of addresses and volumes are few and all in
memory; this is their durable copy. A commit is one transaction and answers
when it is on disk. Images are not here: they are containerd's.

On a full disk nothing new is taken, but things can be removed: a file beside
the database keeps a little room for that.

Schema (version 1): documents(kind TEXT, key TEXT, body BLOB JSON, PRIMARY KEY (kind, key)); meta(version INTEGER).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self, TypeVar

import msgspec

T = TypeVar("T")

VERSION: Final = 1
_RESERVE: Final = 1 << 18
"""Bytes: a removal writes a few pages of 4 KiB."""


class Put(NamedTuple):
    kind: str
    key: str
    document: Any


class Delete(NamedTuple):
    kind: str
    key: str


class State:
    """`with State(path) as state:`; ValueError if the file is of a newer version."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._reserve = f"{path}-reserve"
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._migrate(path)
        self._keep_room()

    def _migrate(self, path: str) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            self.close()
            raise ValueError(
                f"{path} has schema version {version}, this dockerd knows {VERSION}: use a newer one"
            )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS documents"
            " (kind TEXT, key TEXT, body BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        self._database.execute(f"PRAGMA user_version = {VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written."""
        self._writer.shutdown()
        self._database.close()

    async def commit(self, *changes: Put | Delete) -> None:
        """All of the changes or none; returns when they are durable."""
        rows = [self._row(change) for change in changes]
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, self._commit, rows))

    @staticmethod
    def _row(change: Put | Delete) -> tuple[str, str, bytes | None]:
        body = msgspec.json.encode(change.document) if isinstance(change, Put) else None
        return change.kind, change.key, body

    def _commit(self, rows: list[tuple[str, str, bytes | None]]) -> None:
        try:
            self._write(rows)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL or any(body is not None for _, _, body in rows):
                raise
            with suppress(FileNotFoundError):
                os.unlink(self._reserve)
            self._write(rows)
        self._keep_room()

    def _keep_room(self) -> None:
        if os.path.exists(self._reserve):
            return
        fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _RESERVE)
        except OSError:  # too full for that already
            os.unlink(self._reserve)
        finally:
            os.close(fd)

    def _write(self, rows: list[tuple[str, str, bytes | None]]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for kind, key, body in rows:
                if body is None:
                    self._database.execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key))
                else:
                    self._database.execute(
                        "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (kind, key, body)
                    )
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def load(self, kind: str, document: type[T]) -> dict[str, T]:
        """Every document of a kind, by key; for start-up."""
        rows = self._database.execute("SELECT key, body FROM documents WHERE kind = ? ORDER BY key", (kind,))
        return {key: msgspec.json.decode(body, type=document) for key, body in rows}
