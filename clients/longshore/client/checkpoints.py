"""Checkpoints: a container, what it has written and what runs in it, saved as an image.

The image is an index. Its entries, of which a checkpoint has those that were
asked for:

    criu's images, as a tar, and the options they were made with
    the container's specification
    the runtime's options
    the layer of what the container has written
    the image that the container was made from

Media types, annotations and names are those of containerd's client, so either
restores what the other saved. criu must be where the daemon runs.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from longshore.api import typeurls
from longshore.api.errors import DataLoss, Error, FailedPrecondition, InvalidArgument, NotFound
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.runc.options.oci_pb2 import CheckpointOptions
from longshore.api.types.task import task_pb2
from longshore.client import oci
from longshore.client.content import digest_of

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.client.containers import Record
    from longshore.client.images import Image
    from longshore.client.tasks import Task

CRIU = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
SPEC = "application/vnd.containerd.container.checkpoint.config.v1+proto"
OPTIONS = "application/vnd.containerd.container.checkpoint.options.v1+proto"
RUNTIME_OPTIONS = "application/vnd.containerd.container.checkpoint.runtime.options+proto"
LAYERS = (oci.LAYER_GZIP, oci.LAYER, oci.LAYER_ZSTD)

IMAGE_ANNOTATION = oci.REF_ANNOTATION
RUNTIME_ANNOTATION = "io.containerd.checkpoint.runtime"
SNAPSHOTTER_ANNOTATION = "io.containerd.checkpoint.snapshotter"

NAME = "containerd.io/checkpoint/{id}:{time}"  # of a task's checkpoint, unless it is given one
CHECKPOINT_LABEL = "containerd.io/checkpoint"


class Index:
    """The index of a checkpoint in the making. The client should hold a lease."""

    def __init__(self, client: AsyncClient, id: str) -> None:
        self._client, self._id = client, id
        self._entries: list[dict[str, Any]] = []
        self.annotations: dict[str, str] = {}

    def add(self, blob: Descriptor, *, platform: bool = True) -> None:
        """An entry for a stored blob, with the host's platform unless it speaks for itself."""
        entry: dict[str, Any] = {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}
        if platform:
            host = oci.host_platform()
            entry["platform"] = {"os": host.os, "architecture": host.architecture}
        self._entries.append(entry)

    async def store(self, media_type: str, data: bytes, kind: str) -> None:
        """Store a small blob and add it."""
        digest = await self._client.content.write(f"{self._id}-{kind}", data)
        self.add(Descriptor(media_type=media_type, digest=digest, size=len(data)))

    async def add_image(self, name: str) -> None:
        """The image that the container was made from. Raises NotFound."""
        self.add((await self._client.images.get(name)).target, platform=False)

    async def add_task(self, options: CheckpointOptions) -> None:
        """Memory, descriptors and the rest of what runs, by criu. Raises NotFound without a task."""
        for blob in await self._client.tasks.checkpoint(self._id, options):
            self.add(blob)

    async def add_written(self, snapshotter: str, key: str) -> None:
        """The layer of what was written to a snapshot."""
        snapshots = self._client.snapshots(snapshotter)
        parent = (await snapshots.stat(key)).parent
        view = f"{parent}-parent-view-{secrets.token_hex(4)}"
        lower = await snapshots.view(view, parent)
        try:
            upper = await snapshots.mounts(key)
            self.add(await self._client.diffs.compare(lower, upper, ref=f"checkpoint-rw-{key}"))
        finally:
            await snapshots.remove(view)

    def has(self, media_type: str) -> bool:
        return any(entry["mediaType"] == media_type for entry in self._entries)

    async def record(self, name: str, labels: Mapping[str, str] | None = None) -> Image:
        """Store the index and give it a name. Raises AlreadyExists."""
        document = {"schemaVersion": 2, "manifests": self._entries, "annotations": self.annotations}
        data = json.dumps(document).encode()
        marks = {
            f"containerd.io/gc.ref.content.{place}": entry["digest"]
            for place, entry in enumerate(self._entries)
        }
        await self._client.content.write(f"{self._id}-index", data, labels=marks)
        target = Descriptor(media_type=oci.INDEX, digest=digest_of(data), size=len(data))
        return await self._client.images.create(name, target, labels)


async def checkpoint_container(
    client: AsyncClient, record: Record, name: str, *, image: bool, rw: bool, task: bool
) -> Image:
    """See `Container.checkpoint`."""
    async with client.leased() as leased, _paused(client, record.id):
        index = Index(leased, record.id)
        index.annotations[RUNTIME_ANNOTATION] = record.runtime.name
        if record.image:
            index.annotations[IMAGE_ANNOTATION] = record.image
            index.annotations[SNAPSHOTTER_ANNOTATION] = record.snapshotter
        if record.runtime.HasField("options"):
            data = record.runtime.options.SerializeToString()
            await index.store(RUNTIME_OPTIONS, data, "runtime-options")
        if image:
            await index.add_image(record.image)
        if rw:
            _need_snapshot(record)
            await index.add_written(record.snapshotter, record.snapshot_key)
        if task:
            options = CheckpointOptions(file_locks=True)
            await index.add_task(options)
            packed = typeurls.pack(options).SerializeToString()
            await index.store(OPTIONS, packed, "checkpoint-options")
        if not index.has(SPEC):  # the daemon's answer to the checkpoint of a task brings it
            await index.store(SPEC, record.spec.SerializeToString(), "spec")
        made = await index.record(name)
    return type(made)(client, made.record)


async def checkpoint_task(client: AsyncClient, id: str, name: str, options: CheckpointOptions) -> Image:
    """See `Task.checkpoint`."""
    name = name or NAME.format(id=id, time=time.strftime("%m-%d-%Y-%H:%M:%S"))
    record = (await client.containers.get(id)).record
    async with client.leased() as leased, _paused(client, id):
        index = Index(leased, id)
        await index.add_task(options)
        if record.image:
            await index.add_image(record.image)
            index.annotations["image.name"] = record.image
        if record.snapshot_key:
            await index.add_written(record.snapshotter, record.snapshot_key)
        made = await index.record(name, {CHECKPOINT_LABEL: "true"})
    return type(made)(client, made.record)


async def dump(client: AsyncClient, id: str, options: CheckpointOptions) -> None:
    """See `Task.dump`."""
    async with _paused(client, id):
        await client.tasks.checkpoint(id, options)


@asynccontextmanager
async def _paused(client: AsyncClient, id: str) -> AsyncIterator[None]:
    """Nothing of the container runs during the block, so that all parts of a checkpoint are of one moment."""
    task: Task | None = None
    with suppress(NotFound):
        found = await client.tasks.get(id)
        if (await found.state()).status == task_pb2.RUNNING:
            await found.pause()
            task = found
    try:
        yield
    finally:
        if task is not None:
            with suppress(Error):  # it was told to end with its checkpoint
                await task.resume()


def _need_snapshot(record: Record) -> None:
    if not record.snapshot_key:
        raise FailedPrecondition(f"container {record.id} has no snapshot: failed precondition")


class Saved:
    """A checkpoint to restore from."""

    def __init__(self, client: AsyncClient, name: str, document: Mapping[str, Any]) -> None:
        self._client, self._name = client, name
        self._document = document
        self.annotations: Mapping[str, str] = document.get("annotations") or {}

    @classmethod
    async def load(cls, client: AsyncClient, name: str) -> Saved:
        """Raises NotFound, InvalidArgument for another image."""
        image = await client.images.get(name)
        document = await image.document(image.target)
        if not isinstance(document.get("manifests"), list):
            raise InvalidArgument(f"image {name} is no checkpoint: invalid argument")
        return cls(client, name, document)

    def blob(self, *media_types: str) -> Descriptor | None:
        """The first entry of one of these types."""
        for entry in self._document["manifests"]:
            if entry.get("mediaType") in media_types:
                return oci.descriptor(entry)
        return None

    def wanted(self, what: str, hint: str, *media_types: str) -> Descriptor:
        """Likewise. Raises NotFound."""
        found = self.blob(*media_types)
        if found is None:
            error = NotFound(f"{what} in checkpoint {self._name}: not found")
            error.hint = hint
            raise error
        return found

    def criu(self) -> Descriptor:
        """What a task is created from. Raises NotFound."""
        return self.wanted("a task", "make it with --task", CRIU)

    async def message(self, blob: Descriptor) -> AnyMessage:
        """A stored Any. Raises DataLoss."""
        try:
            return AnyMessage.FromString(await self._client.content.read(blob.digest))
        except (DecodeError, ValueError) as error:
            raise DataLoss(f"blob {blob.digest} is no message: {error}: data loss") from None

    async def image(self) -> Image | None:
        """The image that the container was made from, by its name, else as the checkpoint brings it."""
        name = self.annotations.get(IMAGE_ANNOTATION) or self.annotations.get("image.name") or ""
        if not name:
            return None
        try:
            return await self._client.images.get(name)
        except NotFound:
            target = self.blob(*oci.INDEXES, *oci.MANIFESTS)
            if target is None:
                raise
            return await self._client.images.create(name, target)


async def restored_record(client: AsyncClient, id: str, name: str, *, rw: bool) -> Record:
    """The record of a container like the saved one, and its snapshot. The client should hold a lease."""
    from longshore.client import defaults
    from longshore.client.containers import Record

    saved = await Saved.load(client, name)
    spec = await saved.message(saved.wanted("a specification", "make it with --task", SPEC))
    record = Record(id=id, spec=spec)
    record.runtime.name = saved.annotations.get(RUNTIME_ANNOTATION) or defaults.RUNTIME
    options = saved.blob(RUNTIME_OPTIONS)
    if options is not None:
        record.runtime.options.CopyFrom(await saved.message(options))
    layer = saved.wanted("what the container wrote", "make it with --rw", *LAYERS) if rw else None
    image = await saved.image()
    if image is None:
        return record
    record.image = image.name
    record.snapshotter = saved.annotations.get(SNAPSHOTTER_ANNOTATION) or defaults.SNAPSHOTTER
    parent = await image.unpack(record.snapshotter)
    snapshots = client.snapshots(record.snapshotter)
    mounts = await snapshots.prepare(id, parent)
    record.snapshot_key = id
    if layer is not None:
        try:
            await client.diffs.apply(layer, mounts)
        except BaseException:
            await snapshots.remove(id)
            raise
    return record
