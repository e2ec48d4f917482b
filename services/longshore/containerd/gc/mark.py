"""What is garbage: one recursive query over the edges, from the roots to all that they keep.

What isn't reached is garbage. Leases may be *flat*: then only flat edges (a
snapshot's parent, an image's target) lead on from what they hold. So the query
walks (object, flat); an object is kept if it is reached either way. Times are
judged at one moment, `now`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple


class Node(NamedTuple):
    """An object. `kind` as leases spell it: content, ingests, images, snapshots/<snapshotter>, leases, containers."""

    namespace: str
    kind: str
    id: str


# An edge from a root, or a condition, that is in force at :now.
ROOT_HOLDS: Final = "(edge.until IS NULL OR edge.until >= :now)"
CONDITION_HOLDS: Final = """(edge.usedat IS NULL OR EXISTS (
        SELECT 1 FROM used WHERE used.namespace = edge.namespace AND used.kind = edge.to_kind AND used.id = edge.to_id
        AND CASE edge.usedat WHEN '<' THEN :now - used.at < edge.span ELSE :now - used.at > edge.span END))"""

# A statement begins with it, and finds in `live` what is kept.
LIVE: Final = f"""
WITH RECURSIVE live (namespace, kind, id, flat) AS (
    SELECT edge.namespace, edge.to_kind, edge.to_id, 0 FROM edges AS edge WHERE edge.from_kind = 'root' AND {ROOT_HOLDS}
    UNION
    SELECT held.namespace, held.type, held.id, edge.flat AND held.type != 'ingests'
    FROM edges AS edge JOIN lease_resources AS held ON held.namespace = edge.namespace AND held.lease = edge.to_id
    WHERE edge.from_kind = 'root' AND edge.to_kind = 'leases' AND {ROOT_HOLDS}
    UNION
    SELECT value ->> 0, value ->> 1, value ->> 2, 0 FROM json_each(:held)
    UNION
    SELECT edge.namespace, edge.to_kind, edge.to_id, live.flat
    FROM live CROSS JOIN edges AS edge
    ON edge.from_kind = live.kind AND edge.namespace = live.namespace AND edge.from_id = live.id
    WHERE (live.flat = 0 OR edge.flat) AND {CONDITION_HOLDS}
)
"""

_OBJECTS: Final = """
    SELECT namespace, 'leases' AS kind, id FROM leases
    UNION ALL SELECT namespace, 'images', name FROM images
    UNION ALL SELECT namespace, 'ingests', ref FROM ingests
    UNION ALL SELECT namespace, 'snapshots/' || snapshotter, key FROM snapshots
    UNION ALL SELECT namespace, 'content', digest FROM blobs
"""

# EXCEPT, for NOT IN looks for a NULL in vain, row by row.
_GARBAGE: Final = f"""{LIVE}
SELECT namespace, kind, id FROM ({_OBJECTS}) EXCEPT SELECT namespace, kind, id FROM live ORDER BY kind, namespace, id
"""

_NEXT_EXPIRY: Final = """
SELECT min(moment) FROM (
    SELECT min(until) AS moment FROM edges WHERE until IS NOT NULL AND until >= :after
    UNION ALL
    SELECT min(used.at + edge.span) FROM edges AS edge JOIN used
    ON used.namespace = edge.namespace AND used.kind = edge.to_kind AND used.id = edge.to_id
    WHERE edge.usedat = '<' AND edge.usedat IS NOT NULL AND used.at + edge.span > :after
)
"""


def parameters(now: int, held: Iterable[Node]) -> dict[str, int | str]:
    """What `LIVE` wants: the moment in ns, and what running calls need."""
    return {"now": now, "held": json.dumps([list(node) for node in held])}


def garbage(connection: sqlite3.Connection, now: int, held: Iterable[Node]) -> list[Node]:
    """All that nothing keeps, sorted."""
    return [Node(*row) for row in connection.execute(_GARBAGE, parameters(now, held))]


def next_expiry(connection: sqlite3.Connection, after: int) -> int | None:
    """The last moment, from `after` on, at which something that holds by time still holds; ns. None: no such thing."""
    moment: int | None = connection.execute(_NEXT_EXPIRY, {"after": after}).fetchone()[0]
    return moment
