"""The daemon's own stores as a transfer uses them, for one caller: blobs, snapshots, images, under one lease."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final, NamedTuple

from longshore.api import errors
from longshore.api.events.image_pb2 import ImageCreate, ImageUpdate
from longshore.api.services.diff.v1.diff_pb2 import ApplyRequest
from longshore.api.services.images.v1.images_pb2 import Image
from longshore.api.services.leases.v1.leases_pb2 import Lease
from longshore.api.types.mount_pb2 import Mount as MountMessage
from longshore.containerd import rpc
from longshore.containerd.content.store import ContentStore, Info, Writer
from longshore.containerd.diff.differ import Differ
from longshore.containerd.gc import edges, references
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import TARGET_LABEL, Mount, Snapshotter
from longshore.containerd.times import timestamp
from longshore.containerd.transfer.oci import SNAPSHOT_LABEL, UNCOMPRESSED_LABEL, ingest_ref, message_of
from longshore.registry.documents import LARGEST_DOCUMENT, Descriptor, Document, read_document
from longshore.registry.errors import BadContent

CHUNK: Final = 1 << 20
_DAY: Final = 24 * 3600
_EXPIRE: Final = "containerd.io/gc.expire"
_LOCKED_DELAYS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between looks at an ingest that another writes


class Step(NamedTuple):
    """One layer on its way to a snapshot: `diff_id` is the digest of its tar, `chain_id` the snapshot's name."""

    layer: Descriptor
    diff_id: str
    chain_id: str
    parent: str


class Shelf:
    """Everything it makes belongs to `scope.lease`; see `leased`."""

    def __init__(
        self,
        scope: Scope,
        store: Store,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        differ: Differ,
    ) -> None:
        self.scope = scope
        self._store, self._content, self._snapshotters, self._differ = store, content, snapshotters, differ

    @asynccontextmanager
    async def leased(self) -> AsyncIterator[Shelf]:
        """With a lease of a day for the block, unless the caller brought one."""
        if self.scope.lease:
            yield self
            return
        id = f"{time.time_ns()}-{base64.urlsafe_b64encode(os.urandom(3)).decode()}"
        await self._store.write(lambda transaction: _begin_lease(transaction, self.scope.namespace, id))
        try:
            yield Shelf(
                self.scope._replace(lease=id), self._store, self._content, self._snapshotters, self._differ
            )
        finally:
            await asyncio.shield(
                self._store.write(
                    lambda transaction: _end_lease(transaction, self.scope.namespace, id), urgent=True
                )
            )

    # -- blobs ----------------------------------------------------------------------------------------------

    async def info(self, digest: str) -> Info:
        """NotFound."""
        return await self._content.info(self.scope, digest)

    async def read(self, blob: Descriptor) -> bytes:
        """A small blob as a whole. Raises NotFound, DataLoss for one that is too large to be a document."""
        info = await self.info(blob.digest)
        if info.size > LARGEST_DOCUMENT:
            raise errors.DataLoss(f"{blob.digest} has {info.size} bytes: too large for a {blob.media_type}")
        return b"".join([chunk async for chunk in self.chunks(blob.digest)])

    async def document(self, blob: Descriptor) -> Document:
        """A manifest or index. Raises NotFound; BadContent for what isn't one."""
        return read_document(blob, await self.read(blob))

    async def chunks(self, digest: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob from `offset` on. NotFound."""
        opened = await self._content.open(self.scope, digest)
        try:
            while offset < opened.size:
                data = await asyncio.to_thread(os.pread, opened.fd, CHUNK, offset)
                if not data:
                    raise errors.DataLoss(f"content {digest} is shorter than it was: data loss")
                yield data
                offset += len(data)
        finally:
            os.close(opened.fd)

    async def label(self, digest: str, labels: Mapping[str, str]) -> None:
        """Add labels to a blob."""
        if labels:
            await self._content.update(self.scope, digest, lambda old: {**old, **labels})

    async def put(self, ref: str, data: bytes, digest: str, labels: Mapping[str, str]) -> None:
        """A small blob; one that is there gets the labels."""
        try:
            async with self.writer(ref, len(data), digest) as writer:
                if writer.offset < len(data):
                    if writer.offset:
                        await writer.restart()
                    await rpc.shielded(writer.write(data))
                await rpc.shielded(writer.commit(len(data), digest, labels))
        except errors.AlreadyExists:
            await self.label(digest, labels)

    @asynccontextmanager
    async def writer(self, ref: str, total: int, expected: str) -> AsyncIterator[Writer]:
        """An open ingest; one that another call is writing is waited for. Raises AlreadyExists."""
        waited = 0
        while True:
            try:
                writer = await self._content.writer(self.scope, ref, total=total, expected=expected)
                break
            except errors.Unavailable:
                await asyncio.sleep(_LOCKED_DELAYS[min(waited, len(_LOCKED_DELAYS) - 1)])
                waited += 1
        try:
            yield writer
        finally:
            await writer.close()

    async def abort(self, ref: str) -> None:
        """Forget an ingest, if there is one."""
        try:
            await self._content.abort(self.scope, ref)
        except errors.NotFound:
            pass

    # -- snapshots ------------------------------------------------------------------------------------------

    def snapshotter(self, name: str) -> Snapshotter:
        """Raises InvalidArgument for one that there isn't."""
        found = self._snapshotters.get(name)
        if found is None:
            raise errors.InvalidArgument(f"snapshotter not loaded: {name}: invalid argument")
        return found

    async def has_snapshot(self, snapshotter: str, step: Step) -> bool:
        """Whether the layer's snapshot exists; if so our lease has it from now on.

        Stat wouldn't do that: a Prepare that names the snapshot and is refused does.
        """
        found, key = self.snapshotter(snapshotter), _key(step)
        try:
            await found.stat(self.scope, step.chain_id)
            await found.prepare(self.scope, key, step.parent, {TARGET_LABEL: step.chain_id})
        except errors.NotFound:
            return False
        except errors.AlreadyExists:
            return True
        await self._drop(found, key)  # it was collected between the two calls
        return False

    async def unpack(self, snapshotter: str, step: Step) -> None:
        """As `_unpack`; a layer that was begun is finished, whether or not the client still waits."""
        await rpc.shielded(self._unpack(snapshotter, step))

    async def _unpack(self, snapshotter: str, step: Step) -> None:
        """Make the layer a snapshot. One that somebody else made meanwhile serves as well. Raises DataLoss."""
        found, key, labels = self.snapshotter(snapshotter), _key(step), {TARGET_LABEL: step.chain_id}
        try:
            mounts = await found.prepare(self.scope, key, step.parent, labels)
        except errors.AlreadyExists:
            await found.stat(self.scope, step.chain_id)
            return
        try:
            request = ApplyRequest(diff=message_of(step.layer), mounts=_messages(mounts))
            applied = (await self._differ.apply(self.scope, request)).applied.digest
            if applied != step.diff_id:
                raise errors.DataLoss(
                    f"layer {step.layer.digest} has DiffID {applied}, not {step.diff_id}: data loss"
                )
            await found.commit(self.scope, step.chain_id, key, labels)
        except BaseException as error:
            await self._drop(found, key)
            if not isinstance(error, errors.AlreadyExists):
                raise
        await self.label(step.layer.digest, {UNCOMPRESSED_LABEL: step.diff_id})

    async def keep_snapshots(self, config: str, snapshotter: str, top: str) -> None:
        """An image's snapshots live as long as its configuration does."""
        await self.label(config, {f"{SNAPSHOT_LABEL}.{snapshotter}": top})

    async def _drop(self, snapshotter: Snapshotter, key: str) -> None:
        try:
            await snapshotter.remove(self.scope, key)
        except errors.NotFound:
            pass

    # -- images ---------------------------------------------------------------------------------------------

    def image(self, name: str) -> Image:
        """NotFound."""
        row = self._store.read(
            lambda connection: connection.execute(_RECORD, (self.scope.namespace, name)).fetchone()
        )
        if row is None:
            raise errors.NotFound(f'image "{name}": not found')
        return Image.FromString(row[0])

    async def name_image(
        self, name: str, target: Descriptor, labels: Mapping[str, str], *, replace: bool = True
    ) -> None:
        """Record an image, or make the one there is mean `target`. Raises AlreadyExists unless `replace`."""
        labelling.validate(labels, "image.Labels")
        namespace, lease = self.scope
        await self._store.write(
            lambda transaction: _record_image(transaction, namespace, lease, name, target, labels, replace)
        )


_RECORD: Final = "SELECT record FROM images WHERE namespace = ? AND name = ?"


def _record_image(
    transaction: Transaction,
    namespace: str,
    lease: str,
    name: str,
    target: Descriptor,
    labels: Mapping[str, str],
    replace: bool,
) -> None:
    transaction.ensure_namespace(namespace)
    row = transaction.one(_RECORD, (namespace, name))
    if row is not None and not replace:
        raise errors.AlreadyExists(f'image "{name}": already exists')
    image = Image.FromString(row[0]) if row is not None else Image(name=name)
    now = timestamp(time.time_ns())
    if row is None:
        image.created_at.CopyFrom(now)
    image.updated_at.CopyFrom(now)
    image.target.CopyFrom(message_of(target))
    labelling.replace(image.labels, labels)
    labelling.drop_empty(image.labels)
    transaction.execute(
        "INSERT INTO images (namespace, name, target, record) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (namespace, name) DO UPDATE SET target = excluded.target, record = excluded.record",
        (namespace, name, target.digest, image.SerializeToString()),
    )
    edges.record(transaction, namespace, edges.of_image(image))
    if _EXPIRE in image.labels:
        transaction.lease_resource(namespace, lease, "images", name)
    kind, topic = (ImageCreate, "/images/create") if row is None else (ImageUpdate, "/images/update")
    transaction.publish(namespace, topic, kind(name=name, labels=image.labels))


def _begin_lease(transaction: Transaction, namespace: str, id: str) -> None:
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + _DAY))
    lease = Lease(id=id, created_at=timestamp(time.time_ns()), labels={_EXPIRE: end})
    transaction.ensure_namespace(namespace)
    transaction.execute(
        "INSERT INTO leases (namespace, id, record) VALUES (?, ?, ?)",
        (namespace, id, lease.SerializeToString()),
    )
    edges.record(transaction, namespace, references.of_lease(id, lease.labels))


def _end_lease(transaction: Transaction, namespace: str, id: str) -> None:
    transaction.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (namespace, id))
    transaction.execute("DELETE FROM lease_resources WHERE namespace = ? AND lease = ?", (namespace, id))
    edges.forget(transaction, namespace, references.LEASES, id)


def _key(step: Step) -> str:
    return f"extract-{time.time_ns() % 1_000_000_000}-{secrets.token_urlsafe(3)} {step.chain_id}"


def _messages(mounts: Sequence[Mount]) -> list[MountMessage]:
    return [
        MountMessage(type=mount.type, source=mount.source, target=mount.target, options=mount.options)
        for mount in mounts
    ]


async def store_stream(
    shelf: Shelf,
    blob: Descriptor,
    open: Callable[[int], AsyncIterator[bytes]],
    labels: Mapping[str, str],
    report: Callable[[int], None],
) -> None:
    """Have a blob in the store, from the bytes that `open` gives from an offset on; checked while it comes.

    Raises AlreadyExists (and our lease has it), BadContent (and the ingest is gone).
    """
    ref = ingest_ref(blob)
    try:
        async with shelf.writer(ref, blob.size, blob.digest) as writer:
            if writer.offset > blob.size:
                raise BadContent(f"ingest of {blob.digest} holds {writer.offset} of {blob.size} bytes")
            if writer.offset < blob.size:
                async with aclosing(open(writer.offset)) as blocks:  # type: ignore[type-var]
                    async for block in blocks:
                        await rpc.shielded(writer.write(block))
                        report(writer.offset)
            try:
                await rpc.shielded(writer.commit(blob.size, blob.digest, labels))
            except errors.FailedPrecondition as error:
                raise BadContent(error.message) from None
    except BadContent:
        await shelf.abort(ref)
        raise
