"""What a snapshotter is, and how it is used. Read this before any implementation.

The life of a snapshot
----------------------
A snapshot is a filesystem tree, stored as what it changes on its parent. There
are three kinds:

- An *active* snapshot can be written. `prepare` makes it, empty or on top of a
  committed parent. Its name is called a *key*; clients invent keys
  ("extract-12345 sha256:abc", or a container's id).
- A *committed* snapshot never changes again, and others can be made on top of
  it. `commit` turns an active one into it and gives it a new name; its key is
  free again from then on. By convention that *name* is the chain ID of the
  layers that it is made of, so that images share what they have in common.
- A *view* is an active snapshot that can't be written and can't be committed.

Keys and names are one space, per namespace and snapshotter: no two snapshots of
any kind have the same. Only committed snapshots have children.

    prepare(key, parent)          commit(name, key)
    ------------------->  active  -------------------> committed
    view(key, parent)       |                              |
    ------------------->  view                             |
                            |  remove(key)                 |  remove(name), when it has no children
                            v                              v

Nothing is ever mounted here. `prepare`, `view` and `mounts` answer with a list
of mounts, and whoever wants to see the tree mounts them: the shim for a
container, the differ to unpack a layer. The same key gives the same mounts as
long as it lives, also after a restart of the daemon.

Unpacking an image
------------------
Layer 1 has no parent. Make a place for it, fill it, freeze it::

    key = f"extract-{now} {chain_1}"
    mounts = await snapshotter.prepare(scope, key, "", labels)
    applied = await differ.apply(layer_1, mounts)       # compare its digest with the image config
    await snapshotter.commit(scope, chain_1, key, labels)

Layer 2 stands on it::

    mounts = await snapshotter.prepare(scope, key_2, chain_1, labels)
    ...
    await snapshotter.commit(scope, chain_2, key_2, labels)

Two clients may unpack the same image at the same time. Each has its own key;
the second `commit` raises AlreadyExists, which its client takes for success,
after removing its key. With the label ``containerd.io/snapshot.ref=<chain ID>``
on `prepare` it learns this earlier: if that snapshot is committed already,
`prepare` raises AlreadyExists and makes nothing. (A snapshotter that can get a
layer by itself, from a registry on demand, uses the same way: it commits it
while preparing and then raises.)

Running a container
-------------------
::

    mounts = await snapshotter.prepare(scope, "my-container", chain_2, {})
    ... the shim mounts them, the container runs and writes ...
    await snapshotter.remove(scope, "my-container")

or, to make an image of it, `commit` it and let the differ compare it with its
parent. To look into an image without a container, make a `view`.

Who keeps a snapshot alive
--------------------------
Nothing, by itself: garbage collection removes what no lease, no image, no
container and no label refers to. So each method that makes something puts it
into the caller's lease (`Scope.lease`), in the same transaction; if the thing
exists already, AlreadyExists is raised and the existing one is in the lease.

Rules for implementations
-------------------------
- After a method has returned, its effect survives a crash of the daemon. After
  one has raised, or was killed, nothing of it is visible.
- Methods don't block the event loop: what takes time runs in threads or worker
  processes. They may run at the same time, also for the same key.
- Times are ns since the epoch. Errors are those of `longshore.api.errors`, with
  containerd's wording; each method says which.
- Events (/snapshot/prepare, commit, remove) are published with the change.

If trees are directories on this machine, don't implement this: write a
`driver.Driver`, which is much less, and `local.LocalSnapshotter` does the rest.
The README tells how. tests/conformance/test_snapshotters.py holds every
implementation to what is said here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from longshore.containerd.scope import Scope

Labels = dict[str, str]
Relabel = Callable[[Labels], Labels]
"""Old labels to new; may raise. Called inside a transaction."""

TARGET_LABEL = "containerd.io/snapshot.ref"


class Kind(IntEnum):
    """The numbers of the API."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


class Info(NamedTuple):
    """`name` is the key of an active snapshot or view; `parent` is "" at the bottom; times in ns."""

    name: str
    parent: str
    kind: Kind
    created: int
    updated: int
    labels: Labels


class Usage(NamedTuple):
    """Of a snapshot without its parents: bytes on disk, and inodes."""

    size: int
    inodes: int


class Mount(NamedTuple):
    type: str
    source: str
    options: tuple[str, ...]
    target: str = ""


class Snapshotter(Protocol):
    async def stat(self, scope: Scope, key: str) -> Info:
        """Any kind. NotFound."""

    async def update(self, scope: Scope, key: str, relabel: Relabel) -> Info:
        """Change labels, all that can change about a snapshot. NotFound."""

    async def usage(self, scope: Scope, key: str) -> Usage:
        """Of a committed one: for good. Of an active one: now, while it may be written. NotFound."""

    async def mounts(self, scope: Scope, key: str) -> Sequence[Mount]:
        """How to see an active snapshot or a view. NotFound; FailedPrecondition if it is committed."""

    async def prepare(
        self, scope: Scope, key: str, parent: str, labels: Mapping[str, str]
    ) -> Sequence[Mount]:
        """Make an active snapshot.

        AlreadyExists if `key`, or the one named by the label TARGET_LABEL, is
        there. NotFound if the parent isn't, InvalidArgument if it isn't
        committed. ResourceExhausted if the disk is full.
        """

    async def view(self, scope: Scope, key: str, parent: str, labels: Mapping[str, str]) -> Sequence[Mount]:
        """Make a view; otherwise like `prepare`, without an event."""

    async def commit(
        self, scope: Scope, name: str, key: str, labels: Mapping[str, str], parent: str = ""
    ) -> None:
        """Make the active `key` the committed `name`. Labels are the new ones only: the key's are dropped.

        NotFound if there is no `key`, FailedPrecondition if it isn't active,
        AlreadyExists if there is a `name`. A `parent` other than the one it was
        prepared on asks to move it onto that one; Unimplemented where that
        can't be done.
        """

    async def remove(self, scope: Scope, key: str) -> None:
        """Forget a snapshot, and in time its data. NotFound; FailedPrecondition if it has children."""

    def walk(self, scope: Scope, filters: Sequence[str]) -> AsyncIterator[Sequence[Info]]:
        """All snapshots, by name, in blocks of at most 100.

        Filters know name, parent, kind (active, view, committed) and labels.
        InvalidArgument for a bad one.
        """

    async def cleanup(self) -> None:
        """Return when the data of all that was removed is gone. Unimplemented where that means nothing."""
