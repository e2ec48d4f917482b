"""Registry to image store: resolve, manifests, layers three at a time, snapshots in order, the name last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from longshore.api import errors
from longshore.containerd.transfer import oci
from longshore.containerd.transfer.progress import Progress
from longshore.containerd.transfer.shelf import Shelf, Step, store_stream
from longshore.containerd.transfer.tasking import running
from longshore.registry import shapes
from longshore.registry.documents import Descriptor, Document
from longshore.registry.errors import BadContent
from longshore.registry.platforms import Platform, acceptable

if TYPE_CHECKING:
    from longshore.registry.client import Repository

DEEPEST_INDEX: Final = 8
_LABEL_LIMIT: Final = 4096


class Wish(NamedTuple):
    """What of an image is wanted: contents of `platforms` (none: all), unpacked as `unpacks` says."""

    platforms: tuple[Platform, ...] = ()
    unpacks: tuple[tuple[Platform, str], ...] = ()  # platform, snapshotter
    all_metadata: bool = False
    limit: int = 0  # of manifests whose content is taken; 0 is none
    downloads: int = 3

    def wants(self, found: Platform | None) -> bool:
        """Whether the content of a manifest for platform `found` is wanted."""
        if not self.platforms or found is None or not found.architecture:
            return True
        return any(found.full in acceptable(wanted) for wanted in self.platforms)


class Source(Protocol):
    """Where documents and layers come from: a registry, or the store itself after an import."""

    async def has(self, blob: Descriptor) -> bool:
        """False for what an index names and nobody brought."""

    async def document(self, blob: Descriptor) -> Document:
        """A manifest or index, in the store from now on."""

    async def fetch(self, blob: Descriptor) -> None:
        """Have a blob in the store."""


class RegistrySource:
    """From `repository` into `shelf`."""

    def __init__(self, shelf: Shelf, repository: Repository, progress: Progress) -> None:
        self._shelf, self._repository, self._progress = shelf, repository, progress
        reference = repository.reference
        domain = urlsplit(f"//{reference.domain}").hostname or reference.domain
        self._label, self._path = f"{oci.SOURCE_LABEL}.{domain}", reference.path

    async def has(self, blob: Descriptor) -> bool:
        return True

    async def document(self, blob: Descriptor) -> Document:
        await self.fetch(blob)
        return await self._shelf.document(blob)

    async def fetch(self, blob: Descriptor) -> None:
        """Have the blob; one with wrong bytes is asked for again at the next host."""
        hosts = len(self._repository.hosts)
        while True:
            try:
                await self._fetch(blob)
                return
            except BadContent:
                hosts -= 1
                if hosts <= 0:
                    raise
                self._repository.distrust()

    async def _fetch(self, blob: Descriptor) -> None:
        def open(offset: int) -> AsyncIterator[bytes]:
            return self._repository.open_unverified(blob, offset)

        def report(offset: int) -> None:
            self._progress.blob("downloading", blob, offset)

        try:
            await store_stream(self._shelf, blob, open, {self._label: self._path}, report)
        except errors.AlreadyExists:
            await self._mark(blob)
            self._progress.blob("already exists", blob, blob.size)
            return
        self._progress.blob("complete", blob, blob.size)

    async def _mark(self, blob: Descriptor) -> None:
        """Add this repository to those that a blob is known in."""
        present = (await self._shelf.info(blob.digest)).labels.get(self._label, "")
        value = ",".join(sorted({*filter(None, present.split(",")), self._path}))
        if value != present and len(self._label) + len(value) <= _LABEL_LIMIT:
            await self._shelf.label(blob.digest, {self._label: value})


class StoredSource:
    """What an import has put into the store already."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def has(self, blob: Descriptor) -> bool:
        try:
            await self._shelf.info(blob.digest)
        except errors.NotFound:
            return False
        return True

    async def document(self, blob: Descriptor) -> Document:
        return await self._shelf.document(blob)

    async def fetch(self, blob: Descriptor) -> None:
        await self._shelf.info(blob.digest)


class Intake:
    """Makes what a target names complete in the store, and unpacks it."""

    def __init__(self, shelf: Shelf, source: Source, wish: Wish, progress: Progress) -> None:
        self._shelf, self._source, self._wish, self._progress = shelf, source, wish, progress
        self._slots = asyncio.Semaphore(max(wish.downloads, 1))
        self._taken = 0

    async def take(self, target: Descriptor) -> None:
        """Raises NotFound when nothing of it is for the wanted platforms, and whatever the source raises."""
        if not target.is_document:
            raise BadContent(f"{target.digest} is a {target.media_type}, which is no image")
        await self._document(target, wanted=True, depth=0)
        if not self._taken:
            names = ", ".join(map(str, self._wish.platforms))
            raise errors.NotFound(f"no manifest of {target.digest} is for {names}: not found")

    async def _document(self, blob: Descriptor, *, wanted: bool, depth: int) -> None:
        if depth > DEEPEST_INDEX:
            raise BadContent(f"{blob.digest} lies below more than {DEEPEST_INDEX} indexes")
        document = await self._source.document(blob)
        await self._shelf.label(blob.digest, oci.gc_labels(document))
        if not blob.is_index:
            if wanted:
                await self._image(document)
            return
        for child in self._ordered(document.manifests):
            wants = self._wish.wants(child.platform)
            if not child.is_document or not (wants or self._wish.all_metadata):
                continue
            if await self._source.has(child):
                await self._document(child, wanted=wants and not self._full, depth=depth + 1)

    @property
    def _full(self) -> bool:
        return 0 < self._wish.limit <= self._taken

    def _ordered(self, children: Sequence[Descriptor]) -> Sequence[Descriptor]:
        """The best match first, so that a limit of one takes it."""
        ranking = {
            found: rank for wanted in self._wish.platforms for rank, found in enumerate(acceptable(wanted))
        }

        def rank(child: Descriptor) -> int:
            return ranking.get(child.platform.full, len(ranking)) if child.platform else len(ranking)

        return sorted(children, key=rank)

    async def _image(self, manifest: Document) -> None:
        self._taken += 1
        config = manifest.config
        if config is None:
            raise BadContent(f"manifest {manifest.descriptor.digest} has no config")
        await self._source.fetch(config)
        diff_ids, platform = await self._config(config)
        snapshotter = self._snapshotter(platform) if diff_ids else ""
        steps = _steps(manifest, diff_ids) if snapshotter else []
        there = await self._present(snapshotter, steps)
        async with running(self._in_turn(layer) for layer in manifest.layers[there:]) as fetches:
            if steps:
                await self._unpack(snapshotter, steps[there:], fetches)
                await self._shelf.keep_snapshots(config.digest, snapshotter, steps[-1].chain_id)

    async def _config(self, blob: Descriptor) -> tuple[list[str], Platform]:
        """The DiffIDs and the platform; none of what is no container image (a chart, an attestation)."""
        if blob.media_type not in (oci.CONFIG, oci.DOCKER_CONFIG):
            return [], Platform("", "")
        try:
            config = shapes.parse(await self._shelf.read(blob))
        except ValueError as error:
            raise BadContent(f"config {blob.digest} is no image configuration: {error}") from None
        return list((config.get("rootfs") or {}).get("diff_ids") or []), Platform.of(config)

    def _snapshotter(self, found: Platform) -> str:
        for wanted, snapshotter in self._wish.unpacks:
            if not found.architecture or found.full in acceptable(wanted):
                return snapshotter
        return ""

    async def _present(self, snapshotter: str, steps: Sequence[Step]) -> int:
        """How many layers, from the bottom, are snapshots already."""
        for count in range(len(steps), 0, -1):
            if await self._shelf.has_snapshot(snapshotter, steps[count - 1]):
                return count
        return 0

    async def _in_turn(self, layer: Descriptor) -> None:
        self._progress.blob("waiting", layer)
        async with self._slots:
            await self._source.fetch(layer)

    async def _unpack(
        self, snapshotter: str, steps: Sequence[Step], fetches: Sequence[asyncio.Task[None]]
    ) -> None:
        for step, fetch in zip(steps, fetches, strict=True):
            await asyncio.shield(fetch)
            self._progress.blob("extracting", step.layer)
            await self._shelf.unpack(snapshotter, step)
            self._progress.blob("extracted", step.layer, step.layer.size)


def _steps(manifest: Document, diff_ids: Sequence[str]) -> list[Step]:
    if len(diff_ids) != len(manifest.layers):
        raise BadContent(
            f"image {manifest.descriptor.digest} has {len(manifest.layers)} layers and {len(diff_ids)} DiffIDs"
        )
    chain = oci.chain_ids(diff_ids)
    return [Step(*row) for row in zip(manifest.layers, diff_ids, chain, ["", *chain], strict=False)]


Verify = Callable[[str, Descriptor], Awaitable[None]]
"""Raises PermissionDenied for an image that may not be used: (name, target)."""


async def pull(
    shelf: Shelf, repository: Repository, wish: Wish, progress: Progress, verify: Verify | None
) -> Descriptor:
    """Everything of the image but its name."""
    name = str(repository.reference)
    progress.say(f"Resolving from {name}")
    target = await repository.resolve()
    if verify is not None:
        await verify(name, target)
    progress.say("fetching image content", name, target)
    await Intake(shelf, RegistrySource(shelf, repository, progress), wish, progress).take(target)
    return target
