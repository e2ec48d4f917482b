"""Pulling: from a name at a registry to an image whose layers are snapshots.

    lease -> resolve -> manifests (stored, labelled) -> configuration
          -> layers: up to `downloads` at a time, each into a resumable ingest
          -> snapshots: in order, each as soon as its layer and the one below are there
          -> image record -> end of the lease

The steps, names and labels are those of containerd's own client, so either
finds what the other left: an ingest that broke off, blobs, snapshots. What was
interrupted, by an error, by Ctrl-C, by kill -9, goes on where it stood with
the next pull within a day. For that a pull that fails leaves a lease of its
own (label `INTERRUPTED`) on what came, which the next one to succeed removes;
with the pull's lease alone the next collection would take everything. A pull
that was killed leaves its lease, which names image and process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from longshore.api.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from longshore.client import oci
from longshore.client.content import Writer, ingest_ref
from longshore.client.leases import PULLING_LABEL, Resource
from longshore.client.registries import (
    LABEL_LIMIT,
    Progress,
    Report,
    message_of,
    options,
    source_label,
    translated,
    with_source,
)
from longshore.client.tasking import cancel_all, run_all
from longshore.client.unpack import Step, first_missing, is_extraction, label_config, unpack_layer
from longshore.registry import shapes
from longshore.registry.documents import Descriptor, Document, read_document
from longshore.registry.errors import BadContent
from longshore.registry.platforms import Platform, choose

if TYPE_CHECKING:
    from longshore.api.types.descriptor_pb2 import Descriptor as DescriptorMessage
    from longshore.client.client import AsyncClient
    from longshore.registry.client import Options, Repository

DOWNLOADS = 3
DEEPEST_INDEX = 8
INTERRUPTED = "longshore.io/interrupted-pull"  # a lease's label: the image's name
OWNER = "longshore.io/pulled-by"
KEPT_FOR = 24 * 3600  # seconds

Recorder = Callable[["AsyncClient", "DescriptorMessage", Sequence["DescriptorMessage"]], Awaitable[None]]
"""Given a client with the pull's lease, what was resolved, and the manifests that were wanted."""


class Wish(NamedTuple):
    """What of an image is wanted: `platform` None is the host's, `every` all; `snapshotter` "" doesn't unpack."""

    platform: oci.Platform | None = None
    every: bool = False
    snapshotter: str = "overlayfs"
    downloads: int = DOWNLOADS


async def fetch_image(
    client: AsyncClient,
    name: str,
    wish: Wish,
    record: Recorder,
    *,
    registry: Options | None = None,
    progress: Report | None = None,
    owner: str = "",
) -> None:
    """A pull whose caller records the names, before the lease ends.

    A program that runs once in a namespace may name itself as `owner`, and
    call `recover_pulls` when it starts: it finds what pulls left that were
    killed with it.
    """
    from longshore.registry.client import Registry  # and aiohttp: not for those who only look after leases

    with translated(f"pull {name}"):
        async with Registry(registry or options()) as door:
            repository = door.repository(name)
            full = str(repository.reference)
            async with _resumable(client, full, owner) as leased:
                target, manifests = await _Pull(leased, repository, wish, progress).run()
                await record(leased, message_of(target), [message_of(found) for found in manifests])


@asynccontextmanager
async def _resumable(client: AsyncClient, name: str, owner: str) -> AsyncIterator[AsyncClient]:
    """A lease for the block. When the block fails, what it got stays for a day, or until one succeeds."""
    await client.leases.end_abandoned()
    killed = await client.leases.abandoned(f'labels."{PULLING_LABEL}"=="{name}"')
    for lease in killed:
        await _drop_extractions(client, lease.id)
    failed = await client.leases.list([f'labels."{INTERRUPTED}"=="{name}"'])
    earlier = [lease.id for lease in (*killed, *failed)]
    async with client.leased(labels={PULLING_LABEL: name, **({OWNER: owner} if owner else {})}) as leased:
        try:
            yield leased
        except BaseException:
            if leased is not client:
                await _keep(client, name, [leased.connection.lease, *earlier])
            raise
    await _end(client, earlier)


async def _keep(client: AsyncClient, name: str, leases: Sequence[str]) -> None:
    """One new lease on all that these have; the first of them is its owner's to end."""
    found = {(r.type, r.id) for lease in leases for r in await _resources(client, lease)}
    if found:
        kept = await client.leases.create(id="", expires=KEPT_FOR, labels={INTERRUPTED: name})
        for kind, resource in sorted(found):
            try:
                await client.leases.add_resource(kept.id, kind, resource)
            except NotFound:
                pass
    await _end(client, leases[1:])


async def recover_pulls(client: AsyncClient, owner: str) -> None:
    """Leave what an earlier life of `owner` was pulling for the next pull, without half unpacked layers."""
    for lease in await client.leases.list([f'labels."{OWNER}"=="{owner}"']):
        await _drop_extractions(client, lease.id)
        await _keep(client, lease.labels[PULLING_LABEL], [lease.id])
        await _end(client, [lease.id])


async def _drop_extractions(client: AsyncClient, lease: str) -> None:
    """Remove the half unpacked layers of a pull that was killed: nobody can go on with them."""
    for resource in await _resources(client, lease):
        kind, _, snapshotter = resource.type.partition("/")
        if kind == "snapshots" and is_extraction(resource.id):
            await _without(client.snapshots(snapshotter).remove(resource.id))


async def forget_interrupted(client: AsyncClient) -> None:
    """Give up what interrupted pulls have got so far; the next collection takes it."""
    await _end(client, [lease.id for lease in await client.leases.list([f'labels."{INTERRUPTED}"'])])


async def _without(removal: Awaitable[None]) -> None:
    try:
        await removal
    except NotFound:
        pass


async def _resources(client: AsyncClient, lease: str) -> list[Resource]:
    try:
        return await client.leases.resources(lease)
    except NotFound:
        return []


async def _end(client: AsyncClient, leases: Sequence[str]) -> None:
    for lease in leases:
        await _without(client.leases.delete(lease))


class _Pull:
    def __init__(
        self, client: AsyncClient, repository: Repository, wish: Wish, progress: Report | None
    ) -> None:
        self._client, self._repository, self._wish = client, repository, wish
        self._platform = Platform(*(wish.platform or oci.host_platform()))
        self._report_to = progress
        self._slots = asyncio.Semaphore(max(wish.downloads, 1))
        self._source = source_label(repository.reference.domain)
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> tuple[Descriptor, list[Descriptor]]:
        target = await self._repository.resolve()
        self._report("resolved", target, 0)
        manifests = await self._manifests(target)
        try:
            for manifest in manifests:
                await self._image(manifest)
        finally:
            await cancel_all(self._under_way.values())
        return target, [manifest.descriptor for manifest in manifests]

    # -- manifests ------------------------------------------------------------------------------------------

    async def _manifests(self, blob: Descriptor, depth: int = 0) -> list[Document]:
        """The manifests that are wanted, out of a manifest or a tree of indexes; stored and labelled."""
        if not blob.is_document:
            raise BadContent(f"{blob.digest} is a {blob.media_type}, which is no image")
        if depth > DEEPEST_INDEX:
            raise BadContent(f"{self._repository.reference} has indexes in more than {DEEPEST_INDEX} levels")
        document = await self._document(blob)
        await self._client.content.label(blob.digest, _gc_labels(document))
        if not blob.is_index:
            return [document]
        for entry in document.manifests if self._wish.every else ():
            if not entry.is_document:  # a checkpoint's
                await self._blob(entry)
        return [
            found for child in self._chosen(document) for found in await self._manifests(child, depth + 1)
        ]

    def _chosen(self, index: Document) -> Sequence[Descriptor]:
        readable = [entry for entry in index.manifests if entry.is_document]
        if self._wish.every:
            return readable
        found = choose(readable, self._platform)
        if found is None:
            there = sorted({str(entry.platform) for entry in readable if entry.platform})
            error = NotFound(
                f"{self._repository.reference} for {self._platform}: there is {', '.join(there) or 'nothing'}"
                ": not found"
            )
            error.hint = "choose one of these with --platform"
            raise error
        return (found,)

    async def _document(self, blob: Descriptor) -> Document:
        """From the store when it is there, else from the registry into the store."""
        if await self._held(blob):
            document = read_document(blob, await self._client.content.read(blob.digest))
            await self._exists(blob)
            return document
        document = await self._repository.document(blob)
        await self._client.content.write(
            ingest_ref(message_of(blob)),
            document.data,
            labels={self._source: self._repository.reference.path},
        )
        self._report("downloaded", blob, blob.size)
        return document

    # -- one image ------------------------------------------------------------------------------------------

    async def _image(self, manifest: Document) -> None:
        if manifest.config is None:
            raise BadContent(f"manifest {manifest.descriptor.digest} has no config")
        await self._blob(manifest.config)
        steps = await self._steps(manifest, manifest.config) if self._wish.snapshotter else []
        missing = await first_missing(self._client, self._wish.snapshotter, steps)
        for layer in manifest.layers[:missing]:
            await self._mark(layer)
        layers = manifest.layers[missing:]
        fetches = [self._begin(layer) for layer in layers]
        if steps:
            await run_all([self._unpack(steps[missing:], fetches), *map(_wait, fetches)])
            await label_config(
                self._client, self._wish.snapshotter, manifest.config.digest, steps[-1].chain_id
            )
        else:
            await run_all([_wait(fetch) for fetch in fetches])

    async def _steps(self, manifest: Document, config: Descriptor) -> list[Step]:
        """How the layers become snapshots; nothing for what is no container image (an attestation, a chart)."""
        data = await self._client.content.read(config.digest)
        try:
            diff_ids = oci.diff_ids(shapes.parse(data))
        except ValueError as error:
            if "container.image" in config.media_type or "image.config" in config.media_type:
                raise BadContent(f"config {config.digest}: {error}") from None
            diff_ids = []
        if not diff_ids and config.media_type not in (oci.CONFIG, oci.DOCKER_CONFIG):
            return []
        if len(diff_ids) != len(manifest.layers):
            raise DataLoss(
                f"image {self._repository.reference}: {len(manifest.layers)} layers,"
                f" {len(diff_ids)} DiffIDs: data loss"
            )
        if any("in-toto" in layer.media_type for layer in manifest.layers):
            return []
        chain = oci.chain_ids(diff_ids)
        return [
            Step(message_of(layer), diff_id, chain_id, parent)
            for layer, diff_id, chain_id, parent in zip(
                manifest.layers, diff_ids, chain, ["", *chain], strict=False
            )
        ]

    async def _unpack(self, steps: Sequence[Step], fetches: Sequence[asyncio.Task[None]]) -> None:
        for step, fetch in zip(steps, fetches, strict=True):
            await asyncio.shield(fetch)
            blob = Descriptor(step.layer.media_type, step.layer.digest, step.layer.size)
            self._report("unpacking", blob, 0)
            await unpack_layer(self._client, self._wish.snapshotter, step)
            self._report("unpacked", blob, blob.size)

    # -- blobs ----------------------------------------------------------------------------------------------

    def _begin(self, blob: Descriptor) -> asyncio.Task[None]:
        """One download a blob, however often an image has it."""
        task = self._under_way.get(blob.digest)
        if task is None:
            self._report("waiting", blob, 0)
            task = self._under_way[blob.digest] = asyncio.create_task(self._in_turn(blob))
        return task

    async def _in_turn(self, blob: Descriptor) -> None:
        async with self._slots:
            await self._blob(blob)

    async def _held(self, blob: Descriptor) -> bool:
        """Whether the store has it. Asked as a writer: so it belongs to our lease, and no collection takes it."""
        try:
            async with self._ingest(blob):
                return False
        except AlreadyExists:
            return True

    async def _mark(self, blob: Descriptor) -> None:
        """Say of a blob that isn't needed where it is from, should it be there."""
        try:
            await self._exists(blob)
        except NotFound:
            pass

    async def _exists(self, blob: Descriptor) -> None:
        labels = (await self._client.content.info(blob.digest)).labels
        present = labels.get(self._source, "")
        value = with_source(present, self._repository.reference.path)
        if value != present and len(self._source) + len(value) <= LABEL_LIMIT:
            await self._client.content.label(blob.digest, {self._source: value})
        self._report("exists", blob, blob.size)

    async def _blob(self, blob: Descriptor) -> None:
        """Have it in the store, held by our lease, with the label that says where it is from."""
        hosts, fresh = len(self._repository.hosts), False
        while True:
            resumed = False
            try:
                async with self._ingest(blob) as writer:
                    resumed = writer.offset > 0
                    await self._fill(writer, blob)
                return
            except AlreadyExists:
                await self._exists(blob)
                return
            except BadContent:
                # What the ingest has may be of several hosts and times: begin anew, at another host if there is one.
                await self._drop(blob)
                self._repository.distrust()
                if resumed and not fresh:
                    fresh = True  # once: a blob of another namespace is there again when the ingest is opened
                else:
                    hosts -= 1
                if hosts <= 0:
                    raise

    async def _fill(self, writer: Writer, blob: Descriptor) -> None:
        self._report("downloading", blob, writer.offset)
        if writer.offset > blob.size:
            raise BadContent(f"ingest of {blob.digest} holds {writer.offset} of {blob.size} bytes")
        if writer.offset < blob.size or blob.size == 0:
            async for block in self._repository.open_unverified(blob, writer.offset):
                await writer.write(block)
                self._report("downloading", blob, writer.offset)
        # The store has hashed every byte, those of earlier tries too.
        actual = (await writer.status()).digest
        if actual != blob.digest and blob.digest.startswith("sha256:"):
            raise BadContent(f"what came as {blob.digest} has the digest {actual}")
        labels = {self._source: self._repository.reference.path}
        try:
            await writer.commit(size=blob.size, expected=blob.digest, labels=labels)
        except FailedPrecondition as error:
            raise BadContent(error.message) from None
        self._report("downloaded", blob, blob.size)

    def _ingest(self, blob: Descriptor) -> AbstractAsyncContextManager[Writer]:
        """Open the ingest; one that another client is writing is waited for. Raises AlreadyExists."""
        ref = ingest_ref(message_of(blob))
        return self._client.content.awaited_writer(ref, size=blob.size, expected=blob.digest)

    async def _drop(self, blob: Descriptor) -> None:
        try:
            await self._client.content.abort(ingest_ref(message_of(blob)))
        except NotFound:
            pass

    def _report(self, stage: str, blob: Descriptor, offset: int) -> None:
        if self._report_to is not None:
            name = ingest_ref(message_of(blob))
            self._report_to(Progress(stage, name, blob.digest, offset, blob.size))


def _gc_labels(document: Document) -> dict[str, str]:
    return oci.gc_labels(document.content)


async def _wait(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)
