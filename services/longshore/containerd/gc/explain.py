"""Why an object is kept, or isn't: the walk of `mark` in the other direction, with memory."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from longshore.containerd.gc import references
from longshore.containerd.gc.mark import Node

# Notes are for people: more of them explain nothing.
_MOST_NOTES: Final = 20

_INCOMING: Final = """
SELECT from_kind, from_id, why, flat, until, usedat, span FROM edges
WHERE namespace = ? AND to_kind = ? AND to_id = ? ORDER BY from_kind, from_id, why
"""
_LEASES: Final = """
SELECT held.lease, edge.flat, edge.until FROM lease_resources AS held JOIN edges AS edge
ON edge.namespace = held.namespace AND edge.from_kind = 'root' AND edge.to_kind = 'leases' AND edge.to_id = held.lease
WHERE held.namespace = ? AND held.type = ? AND held.id = ? ORDER BY held.lease
"""


class Link(NamedTuple):
    node: Node
    why: str


class Explanation(NamedTuple):
    """`chain`: from what keeps itself to the object, empty if nothing does; `notes`: what doesn't help."""

    node: Node
    chain: tuple[Link, ...]
    notes: tuple[str, ...]


class _Place(NamedTuple):
    """Where the walk is: an object, reached through a flat lease or not."""

    node: Node
    flat: bool


class _Step(NamedTuple):
    """Back to a place, or to the beginning (None)."""

    before: _Place | None
    why: str


def find(connection: sqlite3.Connection, namespace: str, kind: str, id: str) -> list[Node]:
    """Objects with that id, of that kind or ("") any, in that namespace or ("") any."""
    nodes = []
    for table, column, name in (
        ("blobs", "digest", "'content'"),
        ("images", "name", "'images'"),
        ("containers", "id", "'containers'"),
        ("sandboxes", "id", "'sandboxes'"),
        ("leases", "id", "'leases'"),
        ("ingests", "ref", "'ingests'"),
        ("snapshots", "key", "'snapshots/' || snapshotter"),
    ):
        statement = f"SELECT namespace, {name} FROM {table} WHERE {column} = ? ORDER BY namespace, 2"
        nodes += [Node(where, what, id) for where, what in connection.execute(statement, (id,))]
    return [
        node
        for node in nodes
        if namespace in ("", node.namespace) and kind in ("", node.kind, node.kind.partition("/")[0])
    ]


def explain(connection: sqlite3.Connection, node: Node, now: int, held: Iterable[Node]) -> Explanation:
    """`now` in ns; `held`: what running calls need."""
    return _Walk(connection, node, now, held).explain()


class _Walk:
    def __init__(self, connection: sqlite3.Connection, node: Node, now: int, held: Iterable[Node]) -> None:
        self._connection = connection
        self._node = node
        self._now = now
        self._held = frozenset(held)
        # Notes in order of appearance, and the referrers that they are about.
        self._notes: dict[str, None] = {}

    def explain(self) -> Explanation:
        # Place -> the next one on the way to the object, and why that is kept by it.
        ahead: dict[_Place, tuple[_Place | None, str]] = {
            _Place(self._node, flat): (None, "") for flat in (False, True)
        }
        waiting = deque(ahead)
        while waiting:
            place = waiting.popleft()
            for step in self._steps(place):
                if step.before is None:
                    return Explanation(self._node, self._chain(place, step.why, ahead), ())
                if step.before not in ahead:
                    ahead[step.before] = (place, step.why)
                    waiting.append(step.before)
        notes = list(self._notes) or ["nothing refers to it"]
        if len(notes) > _MOST_NOTES:
            notes[_MOST_NOTES:] = [f"and {len(notes) - _MOST_NOTES} more"]
        return Explanation(self._node, (), tuple(notes))

    @staticmethod
    def _chain(first: _Place, why: str, ahead: dict[_Place, tuple[_Place | None, str]]) -> tuple[Link, ...]:
        links = [Link(first.node, why)]
        place: _Place | None = first
        while place is not None:
            place, why = ahead[place]
            if place is not None:
                links.append(Link(place.node, why))
        # A lease leads to the same object by two ways; it is told once.
        return tuple(links)

    def _steps(self, place: _Place) -> Iterator[_Step]:
        """All that keeps a place, one step back; what keeps by itself first."""
        node = place.node
        if not place.flat and node in self._held:
            yield _Step(None, "a running call needs it")
        rows = self._connection.execute(_INCOMING, node).fetchall()
        roots = [row for row in rows if row[0] == references.ROOT]
        if not place.flat:
            for _, _, why, _, until, _, _ in roots:
                if self._in_time(until):
                    yield _Step(None, why)
                else:
                    self._note(f"{say(node)} has expired at {_time(until)}")
        yield from self._leased(place)
        for row in rows:
            if row not in roots:
                yield from self._referred(place, *row)

    def _leased(self, place: _Place) -> Iterator[_Step]:
        node = place.node
        for lease, flat, until in self._connection.execute(_LEASES, node).fetchall():
            flat = bool(flat) and node.kind != references.INGESTS
            if flat != place.flat:
                continue
            holder = Node(node.namespace, references.LEASES, lease)
            if self._in_time(until):
                yield _Step(_Place(holder, False), "leased flat" if flat else "leased")
            else:
                self._note(f"{say(holder)}, which holds {say(node)}, has expired at {_time(until)}")

    def _referred(
        self,
        place: _Place,
        kind: str,
        id: str,
        why: str,
        flat: int,
        _until: int | None,
        usedat: str | None,
        span: int | None,
    ) -> Iterator[_Step]:
        node = place.node
        referrer = Node(node.namespace, kind, id)
        if place.flat and not flat:
            return
        if usedat is not None and span is not None and not self._condition(node, usedat, span):
            self._note(
                f"{say(referrer)} would keep {say(node)} if it had been used {_used(usedat, span)} ({why})"
            )
            return
        if not place.flat:
            self._note_referrer(referrer, node, why)
        yield _Step(_Place(referrer, place.flat), why)

    def _note_referrer(self, referrer: Node, node: Node, why: str) -> None:
        known = find(self._connection, referrer.namespace, referrer.kind, referrer.id)
        if known:
            self._note(f"{say(referrer)} refers to {say(node)} ({why}), but nothing keeps that either")
        else:
            self._note(f"{say(referrer)} would keep {say(node)} ({why}), but doesn't exist")

    def _condition(self, node: Node, usedat: str, span: int) -> bool:
        statement = "SELECT at FROM used WHERE namespace = ? AND kind = ? AND id = ?"
        ages = [self._now - at for (at,) in self._connection.execute(statement, node)]
        return any(age < span if usedat == "<" else age > span for age in ages)

    def _in_time(self, until: int | None) -> bool:
        return until is None or until >= self._now

    def _note(self, text: str) -> None:
        self._notes.setdefault(text)


_WORDS: Final = {
    "content": "blob",
    "images": "image",
    "containers": "container",
    "ingests": "upload",
    "leases": "lease",
    "sandboxes": "sandbox",
}


def say(node: Node) -> str:
    """An object in a sentence."""
    kind, _, snapshotter = node.kind.partition("/")
    if kind == "snapshots":
        return f"snapshot {node.id} ({snapshotter})"
    return f"{_WORDS.get(kind, kind)} {node.id}"


def _time(until: int | None) -> str:
    seconds = (until or 0) // 1_000_000_000
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s since 1970"


def _used(usedat: str, span: int) -> str:
    return f"{'less' if usedat == '<' else 'more'} than {span / 1e9:g} s ago"


def spell(links: Sequence[Link]) -> list[str]:
    """A chain, a line per link."""
    return [f"{say(link.node)}: {link.why}" for link in links]
