"""What containerd remembers: one SQLite database, drawn here. Keep the picture true.

File: ``<root>/io.containerd.metadata.v1.sqlite/meta.sqlite`` (WAL). Its
presence also marks a root as ours (see `longshore.containerd.directories`).

    meta            key -> value                    "version": the schema's number, below
    namespaces      name -> labels                  a row appears with the first write into a namespace
    containers      (namespace, id) -> record       record: serialised Container, sent to clients as it is
    images          (namespace, name) -> record     record: serialised Image; target repeated for look-ups
    leases          (namespace, id) -> record       record: serialised Lease
    sandboxes       (namespace, id) -> record       record: serialised Sandbox
    lease_resources (namespace, lease, type, id)    type: content | ingests | images | snapshots/<snapshotter>
    blobs           (namespace, digest) -> size, times, labels
                                                    a blob's file exists once, however many namespaces know it
    ingests         (namespace, ref) -> directory, expected, expiry
    snapshots       (namespace, snapshotter, key) -> directory, parent, kind, times, labels, usage
    snapshots_trash (snapshotter, number)           removed snapshots whose directory is still there
    proxied         (snapshotter, name) -> number   what the snapshots of a proxy plugin are called there; current:
                                                    the name that counts, the others are of unfinished calls
    content_trash   (kind, name)                    removed blobs and ingests whose files may still be there;
                                                    kind: blob (name: digest) | ingest (name: directory)
    edges           owner, from -> to               what keeps what: all that garbage collection looks at. Derived from
                                                    labels and records by `gc.references` in the transaction that
                                                    writes the owner; meta "edges" is the version of those rules
    used            (namespace, kind, id) -> times  when a snapshot was last used, as its label says: for conditions
    events          sequence -> envelope            the journal; sequences have no gaps, the newest row is never
                                                    pruned (it holds the counter)

Conventions
- Lists come out sorted by key bytes (BINARY collation on UTF-8, as bbolt does).
- Times are integers: nanoseconds since the epoch, UTC.
- Labels are a JSON object in one column ("{}" when none); what is filtered by
  label is filtered in Python, with the one grammar of `filters`.
- A record that a client gets back unchanged is stored as the message's bytes.
- `container` and `process` of an event are set for exits and deletions of tasks,
  which are looked up again; a container may have a hundred thousand execs.
- An edge's `from` is "root" for what keeps itself: until a time, if `until` has one. `flat` edges count for flat
  leases too (of a root edge to a lease: the lease is flat). With `usedat` (< or >) and `span` (ns) an edge holds
  while the target was used less, or more, than so long ago.
- Event times are the sender's; `instance` and `instance_sequence` name an event
  that a shim reported on the exit stream, so that a repeated report is dropped.

Changing it: raise VERSION, append to MIGRATIONS a statement list that turns
VERSION - 1 into VERSION, and change SCHEMA to match. A database of a higher
version is refused, an older one is migrated in one transaction at open.
"""

from __future__ import annotations

VERSION = 4

# Marks the file itself (PRAGMA application_id): "LSHR".
APPLICATION_ID = 0x4C534852

# What version 2 added, for garbage collection.
_COLLECTION = """
CREATE TABLE content_trash (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;

CREATE TABLE edges (
    namespace TEXT NOT NULL,
    owner_kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    from_kind TEXT NOT NULL,
    from_id TEXT NOT NULL,
    to_kind TEXT NOT NULL,
    to_id TEXT NOT NULL,
    why TEXT NOT NULL,
    flat INTEGER NOT NULL DEFAULT 0,
    until INTEGER,
    usedat TEXT,
    span INTEGER
);
CREATE INDEX edges_by_owner ON edges (namespace, owner_kind, owner);
CREATE INDEX edges_by_source ON edges (from_kind, namespace, from_id);
CREATE INDEX edges_by_target ON edges (namespace, to_kind, to_id);
CREATE INDEX edges_by_end ON edges (until) WHERE until IS NOT NULL;
CREATE INDEX edges_by_condition ON edges (usedat) WHERE usedat IS NOT NULL;

CREATE TABLE used (
    namespace TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (namespace, kind, id, at)
) WITHOUT ROWID;
"""

# What version 3 added.
_SANDBOXES = """
CREATE TABLE sandboxes (
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    record BLOB NOT NULL,
    UNIQUE (namespace, id)
);
"""

# What version 4 added.
_PROXIED = """
CREATE TABLE proxied (
    snapshotter TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    current INTEGER NOT NULL,
    PRIMARY KEY (snapshotter, name)
) WITHOUT ROWID;
CREATE INDEX proxied_by_number ON proxied (snapshotter, number);
"""

SCHEMA = (
    """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE namespaces (
    name TEXT PRIMARY KEY,
    labels TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;

CREATE TABLE containers (
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    record BLOB NOT NULL,
    UNIQUE (namespace, id)
);

CREATE TABLE images (
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    target TEXT NOT NULL,
    record BLOB NOT NULL,
    UNIQUE (namespace, name)
);

CREATE TABLE leases (
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    record BLOB NOT NULL,
    UNIQUE (namespace, id)
);

CREATE TABLE lease_resources (
    namespace TEXT NOT NULL,
    lease TEXT NOT NULL,
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (namespace, lease, type, id)
) WITHOUT ROWID;
CREATE INDEX lease_resources_by_resource ON lease_resources (namespace, type, id);

CREATE TABLE blobs (
    namespace TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    labels TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (namespace, digest)
) WITHOUT ROWID;
CREATE INDEX blobs_by_digest ON blobs (digest);

CREATE TABLE ingests (
    namespace TEXT NOT NULL,
    ref TEXT NOT NULL,
    directory TEXT NOT NULL UNIQUE,
    expected TEXT NOT NULL DEFAULT '',
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (namespace, ref)
) WITHOUT ROWID;

CREATE TABLE snapshots (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    key TEXT NOT NULL,
    parent TEXT NOT NULL DEFAULT '',
    kind INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    labels TEXT NOT NULL DEFAULT '{}',
    inodes INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    UNIQUE (namespace, snapshotter, key)
);
CREATE INDEX snapshots_by_parent ON snapshots (namespace, snapshotter, parent);

CREATE TABLE snapshots_trash (
    snapshotter TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (snapshotter, number)
) WITHOUT ROWID;

CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    journalled INTEGER NOT NULL,
    time INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    topic TEXT NOT NULL,
    type_url TEXT NOT NULL,
    value BLOB NOT NULL,
    container TEXT,
    process TEXT,
    instance TEXT,
    instance_sequence INTEGER
);
CREATE INDEX events_by_process ON events (namespace, container, process) WHERE container IS NOT NULL;
CREATE UNIQUE INDEX events_by_source ON events (instance, instance_sequence) WHERE instance IS NOT NULL;
CREATE INDEX events_by_time ON events (journalled);
"""
    + _COLLECTION
    + _SANDBOXES
    + _PROXIED
)

# MIGRATIONS[n] turns version n + 1 into n + 2.
MIGRATIONS: list[list[str]] = [
    # Garbage collection. The edges of what is there are derived when the collector is built: see `gc.edges.rebuild`.
    [statement for statement in _COLLECTION.split(";") if statement.strip()],
    [_SANDBOXES],
    [statement for statement in _PROXIED.split(";") if statement.strip()],
]
