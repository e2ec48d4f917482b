"""What a content store is. Implementations: `local`; tests/conformance runs the same suite over each.

A *blob* is immutable bytes named by their digest. It comes into being through
an *ingest*: a writer, known by a free-form `ref`, to which bytes are appended
and which is committed in the end. An ingest survives its writer: whoever opens
the same ref later goes on where the last one stopped, after a crash, too. There
is at most one writer per ref at a time. Blobs and ingests belong to a
namespace. Bytes that two namespaces know exist once; a namespace sees a blob
only after it has written it, or shown that it knows the digest (below).

Importing a blob whose digest is known goes like this::

    try:
        writer = await store.writer(scope, "layer-sha256:abc", total=size, expected="sha256:abc")
    except AlreadyExists:                    # nothing to do; it is held by our lease now
        return
    try:
        while writer.offset < size:          # not 0 if an earlier attempt left something,
            await writer.write(more)         # or if another namespace has the blob already
        await writer.commit(size, "sha256:abc", {})
    finally:
        await writer.close()                 # without a commit: the ingest waits to be resumed

Errors are those of `longshore.api.errors`, with containerd's wording.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from longshore.containerd.scope import Scope

Labels = dict[str, str]
Relabel = Callable[[Labels], Labels]
"""Old labels to new; may raise. Called inside a transaction."""


class Info(NamedTuple):
    """A blob as a namespace knows it; times in ns since the epoch."""

    digest: str
    size: int
    created: int
    updated: int
    labels: Labels


class Status(NamedTuple):
    """An ingest; times in ns. `total` and `expected` are 0 and "" while unknown."""

    ref: str
    offset: int
    total: int
    expected: str
    started: int
    updated: int


class Blob(NamedTuple):
    """A blob opened for reading: a file descriptor, the opener's to close, and its length."""

    fd: int
    size: int


class Writer(Protocol):
    """One ingest, open and locked. Use it from one task at a time, and close it whatever happens."""

    @property
    def offset(self) -> int:
        """Bytes that it has."""

    @property
    def status(self) -> Status: ...

    async def digest(self) -> str:
        """Digest (sha256) of what it has so far."""

    async def write(self, data: bytes) -> None:
        """Append. Raises ResourceExhausted when the disk is full; what fitted is kept, see `offset`."""

    async def restart(self) -> None:
        """Throw away what is there: offset 0."""

    async def commit(self, size: int, expected: str, labels: Mapping[str, str]) -> str:
        """Make it a blob, durably, visible in the writer's namespace; returns its digest.

        FailedPrecondition if `size` (not 0) or `expected` (not "") don't match:
        the ingest stays as it is. AlreadyExists if the namespace has that blob:
        the ingest is gone, and the blob held by the lease. NotFound if the
        ingest was aborted meanwhile.
        """

    async def close(self) -> None:
        """Unlock the ref. Harmless when repeated."""


class ContentStore(Protocol):
    async def info(self, scope: Scope, digest: str) -> Info:
        """NotFound if the namespace doesn't know the blob."""

    async def update(self, scope: Scope, digest: str, relabel: Relabel) -> Info:
        """Change labels, all that can change about a blob. NotFound."""

    def list(self, scope: Scope, filters: Sequence[str]) -> AsyncIterator[Sequence[Info]]:
        """All blobs of the namespace, by digest, in blocks of at most 100; InvalidArgument for a bad filter."""

    async def delete(self, scope: Scope, digest: str) -> None:
        """The namespace forgets the blob; its bytes go when no namespace has it. NotFound."""

    async def open(self, scope: Scope, digest: str) -> Blob:
        """Open for reading; readable until closed, whatever is deleted. NotFound."""

    async def writer(self, scope: Scope, ref: str, *, total: int = 0, expected: str = "") -> Writer:
        """Begin or resume the ingest `ref`.

        AlreadyExists if the namespace has `expected` (then the lease holds it).
        Unavailable if the ref stays locked by another writer for a moment. What
        is there is kept unless it was begun with another `total`. If another
        namespace has `expected` and lets it be shared, the writer is complete
        at once: `commit` is all that is left to do.
        """

    async def status(self, scope: Scope, ref: str) -> Status:
        """NotFound if there is no such ingest."""

    async def statuses(self, scope: Scope, filters: Sequence[str]) -> Sequence[Status]:
        """All ingests of the namespace; filters know the field `ref`."""

    async def abort(self, scope: Scope, ref: str) -> None:
        """Forget an ingest and its bytes. NotFound."""
