"""Images: names for manifests in the content store, and how they become snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask

from longshore.api.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from longshore.api.services.images.v1 import images_pb2 as pb
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import oci, references
from longshore.client.content import ingest_ref
from longshore.client.stubs import stub
from longshore.client.unpack import Step, first_missing, label_config, unpack_layer
from longshore.registry import shapes
from longshore.registry.references import is_digest

if TYPE_CHECKING:
    from longshore.api.services.images.v1.images_pb2_grpc import ImagesAsyncStub
    from longshore.client.client import AsyncClient
    from longshore.client.registries import Report
    from longshore.client.sources import Named, Source
    from longshore.registry.client import Options

Record = pb.Image

DEEPEST = 8  # indexes in indexes
LARGEST_DOCUMENT = 8 << 20  # bytes of a manifest or index


class Image:
    """One image of this namespace, for one platform (the host's unless said otherwise)."""

    def __init__(self, client: AsyncClient, record: Record, platform: oci.Platform | None = None) -> None:
        self._client = client
        self.record = record
        self.platform = platform or oci.host_platform()

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.record.labels)

    @property
    def target(self) -> Descriptor:
        return self.record.target

    async def document(self, blob: Descriptor) -> dict[str, Any]:
        """A manifest, index or config as JSON. Raises NotFound, DataLoss."""
        try:
            if not is_digest(blob.digest):
                raise ValueError("its name is no digest")
            return shapes.parse(await self._client.content.read(blob.digest))
        except ValueError as error:
            raise DataLoss(
                f"blob {blob.digest} is no manifest or configuration: {error}: data loss"
            ) from None

    async def manifest(self) -> dict[str, Any]:
        """The manifest of the platform. Raises NotFound when the image has none for it."""
        document = await self.document(self.target)
        while "manifests" in document:
            entries = [
                entry
                for entry in oci.manifests(document)
                if oci.matches(self.platform, entry.get("platform"))
            ]
            if not entries:
                raise NotFound(f"manifest of {self.name} for {self.platform}: not found")
            document = await self.document(oci.descriptor(entries[0]))
        return document

    async def config(self) -> dict[str, Any]:
        """The image's configuration: ``config`` (Env, Cmd, ...), ``rootfs.diff_ids``, ``history``."""
        return await self.document(await self._config_blob())

    async def _config_blob(self) -> Descriptor:
        manifest = await self.manifest()
        if not manifest.get("config"):
            raise DataLoss(f"image {self.name} has no configuration: data loss")
        return oci.descriptor(manifest["config"])

    async def chain_id(self) -> str:
        """The name of the snapshot that holds all layers; "" for an image without layers."""
        chain = oci.chain_ids(oci.diff_ids(await self.config()))
        return chain[-1] if chain else ""

    async def blobs(self) -> list[Descriptor]:
        """The target and everything below it as far as manifests are in the store; each blob once."""
        found: dict[str, Descriptor] = {}
        await self._walk(self.target, lambda blob: found.setdefault(blob.digest, blob))
        return list(found.values())

    async def size(self) -> int:
        """Bytes of all its blobs."""
        return sum(blob.size for blob in await self.blobs())

    async def platforms(self) -> list[str]:
        """The platforms whose configuration is here."""
        found: list[str] = []
        document = await self.document(self.target)
        entries = oci.manifests(document) if "manifests" in document else [{}]
        for entry in entries:
            try:
                manifest = await self.document(oci.descriptor(entry)) if "digest" in entry else document
                if not manifest.get("config"):
                    continue
                config = await self.document(oci.descriptor(manifest["config"]))
            except (NotFound, DataLoss):
                continue
            platform = oci.Platform(
                config.get("os") or "", config.get("architecture") or "", config.get("variant") or ""
            )
            if platform.os and str(platform) not in found:
                found.append(str(platform))
        return found

    async def _walk(self, blob: Descriptor, visit: Callable[[Descriptor], object]) -> None:
        if blob.media_type not in oci.INDEXES | oci.MANIFESTS:
            visit(blob)
            return
        visit(blob)
        try:
            document = await self.document(blob)
        except NotFound:
            return
        for child in oci.children(document):
            await self._walk(child, visit)

    async def layers(self) -> list[tuple[Descriptor, str]]:
        """Each layer from the bottom, and the name of the snapshot that it becomes."""
        chain = oci.chain_ids(oci.diff_ids(await self.config()))
        layers = (await self.manifest()).get("layers") or []
        return [(oci.descriptor(layer), name) for layer, name in zip(layers, chain, strict=False)]

    async def is_unpacked(self, snapshotter: str) -> bool:
        chain = await self.chain_id()
        if not chain:
            return True
        try:
            await self._client.snapshots(snapshotter).stat(chain)
        except NotFound:
            return False
        return True

    async def unpack(self, snapshotter: str) -> str:
        """Make its layers snapshots, unless they are, and answer the name of the topmost ("" without layers).

        Each layer: an active snapshot on the one below, Diff.Apply, comparison
        with the DiffID that the config promises, Commit. Raises DataLoss when
        they differ. Layers that another unpack has made meanwhile are used.
        """
        manifest = await self.manifest()
        config_blob = await self._config_blob()
        diff_ids = oci.diff_ids(await self.document(config_blob))
        layers = [oci.descriptor(layer) for layer in manifest.get("layers") or []]
        if len(layers) != len(diff_ids):
            raise DataLoss(f"image {self.name}: {len(layers)} layers, {len(diff_ids)} DiffIDs: data loss")
        chain = oci.chain_ids(diff_ids)
        if not chain:
            return ""
        async with self._client.leased() as client:
            steps = list(map(Step, layers, diff_ids, chain, ["", *chain]))
            for step in steps[await first_missing(client, snapshotter, steps) :]:
                await unpack_layer(client, snapshotter, step)
            await label_config(client, snapshotter, config_blob.digest, chain[-1])
        return chain[-1]

    async def delete(self, *, sync: bool = False) -> None:
        """Remove the name; with `sync` return after the garbage collection."""
        await self._client.images.delete(self.name, sync=sync)


class Images:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._call = client.connection.call
        self.stub: ImagesAsyncStub = stub(pb.DESCRIPTOR, "Images", client.connection.channel)

    async def get(self, name: str, *, platform: oci.Platform | None = None) -> Image:
        """Raises NotFound. Names are taken as they are: `longshore.client.references` completes short ones."""
        return Image(
            self._client, (await self._call(self.stub.Get, pb.GetImageRequest(name=name))).image, platform
        )

    async def create(
        self, name: str, target: Descriptor, labels: Mapping[str, str] | None = None, *, replace: bool = False
    ) -> Image:
        """Give a blob a name. Raises AlreadyExists, unless it may `replace`."""
        record = Record(name=name, target=target, labels=labels or {})
        while True:
            try:
                answer = await self._call(self.stub.Create, pb.CreateImageRequest(image=record))
                return Image(self._client, answer.image)
            except AlreadyExists:
                if not replace:
                    raise
            try:
                mask = FieldMask(paths=["target", *(["labels"] if labels is not None else [])])
                request = pb.UpdateImageRequest(image=record, update_mask=mask)
                return Image(self._client, (await self._call(self.stub.Update, request)).image)
            except NotFound:  # deleted between the two calls
                continue

    async def tag(self, source: str, target: str, *, replace: bool = False) -> Image:
        """Another name for an image."""
        image = await self.get(source)
        return await self.create(target, image.target, image.labels, replace=replace)

    async def label(self, name: str, labels: Mapping[str, str]) -> Image:
        """Set these labels and leave the others; an empty value removes one."""
        request = pb.UpdateImageRequest(
            image=Record(name=name, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        return Image(self._client, (await self._call(self.stub.Update, request)).image)

    async def delete(self, name: str, *, sync: bool = False) -> None:
        """Remove a name; blobs and snapshots that nothing else refers to go with the next garbage collection."""
        await self._call(self.stub.Delete, pb.DeleteImageRequest(name=name, sync=sync))

    async def fetch(
        self, source: Source, *, names: Callable[[Named], Sequence[str]] = lambda found: (found.name,)
    ) -> list[Image]:
        """Store what a source has and give it names.

        `names` says what names to record for something found (none: it is
        stored for the length of the lease only).
        """
        images: list[Image] = []
        async with self._client.leased() as client:
            for found in await source.resolve():
                await store_tree(client, source, found.target)
                for recorded in names(found):
                    images.append(await client.images.create(recorded, found.target, replace=True))
        return [Image(self._client, image.record) for image in images]

    async def pull(
        self,
        name: str,
        *,
        platform: oci.Platform | None = None,
        all_platforms: bool = False,
        snapshotter: str = "overlayfs",
        unpack: bool = True,
        labels: Mapping[str, str] | None = None,
        downloads: int = 3,
        registry: Options | None = None,
        progress: Report | None = None,
    ) -> Image:
        """Fetch an image from its registry, unpack it, and record it under its full name.

        `name` may be short (``busybox``). Up to `downloads` layers come at a
        time; what an interrupted pull left is used. `registry` says how to
        reach it (`longshore.client.registries.options`); by default with the
        credentials of Docker's config.json. `progress` is called with
        `longshore.client.registries.Progress`, on the thread of the event loop.

        Raises, with a `hint`: NotFound, Unauthenticated, PermissionDenied,
        Unavailable, ResourceExhausted (rate limits), DataLoss (what came is
        not what was promised), InvalidArgument (a name or configuration).
        """
        from longshore.client.pull import Wish, fetch_image

        async def record(leased: AsyncClient, target: Descriptor, _: Sequence[Descriptor]) -> None:
            await leased.images.create(references.normalize(name), target, labels or {}, replace=True)

        wish = Wish(platform, all_platforms, snapshotter if unpack else "", downloads)
        await fetch_image(self._client, name, wish, record, registry=registry, progress=progress)
        return await self.get(references.normalize(name), platform=platform)

    async def push(
        self,
        name: str,
        *,
        source: str = "",
        target: Descriptor | None = None,
        platform: oci.Platform | None = None,
        foreign_layers: bool = False,
        uploads: int = 3,
        registry: Options | None = None,
        progress: Report | None = None,
    ) -> str:
        """Send an image to the registry in `name`, and answer the digest that has this name there.

        The image is the one called `source`, by default `name` itself; or any
        manifest or index, given as `target`. With `platform` only that
        platform's manifest is sent. What the registry has is not sent again.
        `foreign_layers`: also those whose makers don't want them distributed.
        Errors, `registry` and `progress` are as with `pull`.
        """
        from longshore.client.push import Sending, push

        sending = Sending(source, target, platform, foreign_layers, uploads)
        return await push(self._client, name, sending, registry=registry, progress=progress)

    async def convert(
        self,
        source: str,
        target: str,
        *,
        uncompress: bool = False,
        oci_types: bool = False,
        platform: oci.Platform | None = None,
        all_platforms: bool = False,
    ) -> Image:
        """Store an image again in another form, and record it as `target`.

        `uncompress` makes layers plain tars, `oci_types` turns Docker's media
        types into OCI's. Of an index the host's platform is taken, or
        `platform`, or all of them (then all must be here). Raises NotFound,
        DataLoss (a damaged layer).
        """
        from longshore.client.convert import Form, convert

        wanted = None if all_platforms else platform or oci.host_platform()
        return await convert(self._client, source, target, Form(uncompress, oci_types, wanted))

    async def import_archive(
        self,
        archive: IO[bytes],
        *,
        base_name: str = "",
        digests: bool = False,
        skip_digest_for_named: bool = False,
        index_name: str = "",
    ) -> list[Image]:
        """Read an OCI or Docker archive (also compressed, also a pipe) and record its images.

        Names without a domain get `base_name` before them; with `digests`
        each image is also recorded as ``base_name@digest``, or with
        `skip_digest_for_named` only those without a name; `index_name` also
        names the archive's whole index. Raises InvalidArgument for what is no
        archive. Unpacking is a step of its own.
        """
        from longshore.client.archive import import_archive

        return await import_archive(
            self._client,
            archive,
            base_name=base_name,
            digests=digests,
            skip_digest_for_named=skip_digest_for_named,
            index_name=index_name,
        )

    async def export_archive(
        self,
        names: Sequence[str],
        archive: IO[bytes],
        *,
        platform: oci.Platform | None = None,
        all_platforms: bool = False,
        docker_manifest: bool = True,
        foreign_layers: bool = True,
    ) -> None:
        """Write images as one archive that is OCI layout and Docker archive in one. Raises NotFound.

        Of an index goes what is here: with `platform` only that, with
        `all_platforms` everything, or NotFound. `docker_manifest` false leaves
        out what makes it a Docker archive, `foreign_layers` false the layers
        whose makers don't want them distributed.
        """
        from longshore.client.archive import Wanted, export_archive

        wanted = Wanted(platform, all_platforms, foreign_layers)
        await export_archive(self._client, names, archive, wanted=wanted, docker_manifest=docker_manifest)

    async def list(self, filters: Sequence[str] = ()) -> list[Image]:
        """Filters know name, target.digest, target.mediatype and labels.*."""
        answer = await self._call(self.stub.List, pb.ListImagesRequest(filters=filters))
        return [Image(self._client, record) for record in answer.images]


async def store_tree(client: AsyncClient, source: Source, blob: Descriptor, depth: int = 0) -> None:
    """Store a blob of a source and what it refers to; the client should hold a lease.

    Children are labelled first, so that a collection never sees a gap.
    """
    try:
        await client.content.info(blob.digest)
    except NotFound:
        if blob.size <= 0:
            raise FailedPrecondition(f"blob {blob.digest} has no size: failed precondition") from None
        await client.content.write(ingest_ref(blob), source.open(blob), size=blob.size, expected=blob.digest)
    if blob.media_type not in oci.INDEXES | oci.MANIFESTS:
        return
    if depth > DEEPEST:
        raise FailedPrecondition(f"{blob.digest} lies below too many indexes: failed precondition")
    try:
        document = shapes.parse(await client.content.read(blob.digest, limit=LARGEST_DOCUMENT))
    except ValueError as error:
        raise DataLoss(f"blob {blob.digest} is no manifest: {error}: data loss") from None
    await client.content.label(blob.digest, oci.gc_labels(document))
    for child in oci.children(document):
        try:
            await store_tree(client, source, child, depth + 1)
        except NotFound:
            # An index may name platforms that the source left out.
            if "manifests" not in document:
                raise
