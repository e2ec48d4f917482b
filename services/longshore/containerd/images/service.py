"""The Images service: names for content. Whether the content is there is nobody's business here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.api import errors
from longshore.api.events.image_pb2 import ImageCreate, ImageDelete, ImageUpdate
from longshore.api.services.images.v1.images_pb2 import (
    CreateImageRequest,
    CreateImageResponse,
    DeleteImageRequest,
    GetImageRequest,
    GetImageResponse,
    Image,
    ListImagesRequest,
    ListImagesResponse,
    UpdateImageRequest,
    UpdateImageResponse,
)
from longshore.api.services.images.v1.images_pb2_grpc import ImagesServicer
from longshore.containerd import filters as filtering
from longshore.containerd import rpc
from longshore.containerd.gc import edges, references
from longshore.containerd.gc.collector import Collect
from longshore.containerd.metadata import digests, records
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.times import timestamp

_RECORD: Final = "SELECT record FROM images WHERE namespace = ? AND name = ?"

# An image with this label lives in its creator's lease and goes when its time has come; others are kept for ever.
_EXPIRE: Final = "containerd.io/gc.expire"


class ImagesService(ImagesServicer):
    """CRUD on records; every change publishes its event in the same transaction."""

    def __init__(self, store: Store, collect: Collect | None = None) -> None:
        self._store = store
        self._collect = collect

    @rpc.unary()
    async def Get(self, request: GetImageRequest, call: rpc.Call) -> GetImageResponse:
        namespace = call.namespace
        row = self._store.read(
            lambda connection: connection.execute(_RECORD, (namespace, request.name)).fetchone()
        )
        if row is None:
            raise _not_found(request.name)
        return rpc.encoded(GetImageResponse, rpc.field(1, row[0]))

    @rpc.unary()
    async def List(self, request: ListImagesRequest, call: rpc.Call) -> ListImagesResponse:
        return rpc.encoded(
            ListImagesResponse,
            await records.answer(self._store, "images", "name", call.namespace, request.filters, _seen),
        )

    @rpc.unary(mutates=True)
    async def Create(self, request: CreateImageRequest, call: rpc.Call) -> CreateImageResponse:
        image = request.image
        if not image.name:
            raise errors.InvalidArgument("Image.Name required")
        namespace, lease = call.namespace, call.lease
        _validate(image)
        labelling.drop_empty(image.labels)
        image.created_at.CopyFrom(_time_of(request))
        image.updated_at.CopyFrom(image.created_at)
        record = image.SerializeToString()

        def create(transaction: Transaction) -> None:
            transaction.ensure_namespace(namespace)
            if transaction.one(_RECORD, (namespace, image.name)) is not None:
                raise errors.AlreadyExists(f'image "{image.name}": already exists')
            transaction.execute(
                "INSERT INTO images (namespace, name, target, record) VALUES (?, ?, ?, ?)",
                (namespace, image.name, image.target.digest, record),
            )
            edges.record(transaction, namespace, edges.of_image(image))
            if _EXPIRE in image.labels:
                transaction.lease_resource(namespace, lease, "images", image.name)
            event = ImageCreate(name=image.name, labels=image.labels)
            transaction.publish(namespace, "/images/create", event)

        await self._store.write(create)
        return rpc.encoded(CreateImageResponse, rpc.field(1, record))

    @rpc.unary(mutates=True)
    async def Update(self, request: UpdateImageRequest, call: rpc.Call) -> UpdateImageResponse:
        given, paths = request.image, list(request.update_mask.paths)
        if not given.name:
            raise errors.InvalidArgument("Image.Name required")
        namespace, lease, now = call.namespace, call.lease, _time_of(request)

        def update(transaction: Transaction) -> bytes:
            image = _load(transaction, namespace, given.name)
            _apply(image, given, paths)
            _validate(image)
            labelling.drop_empty(image.labels)
            image.updated_at.CopyFrom(now)
            record = image.SerializeToString()
            transaction.execute(
                "UPDATE images SET target = ?, record = ? WHERE namespace = ? AND name = ?",
                (image.target.digest, record, namespace, image.name),
            )
            edges.record(transaction, namespace, edges.of_image(image))
            if _EXPIRE in image.labels:
                transaction.lease_resource(namespace, lease, "images", image.name)
            event = ImageUpdate(name=image.name, labels=image.labels)
            transaction.publish(namespace, "/images/update", event)
            return record

        return rpc.encoded(UpdateImageResponse, rpc.field(1, await self._store.write(update)))

    @rpc.unary(mutates=True)
    async def Delete(self, request: DeleteImageRequest, call: rpc.Call) -> Empty:
        namespace, lease = call.namespace, call.lease

        def delete(transaction: Transaction) -> None:
            image = _load(transaction, namespace, request.name)
            if request.HasField("target") and request.target.digest != image.target.digest:
                raise errors.NotFound(
                    f'image "{request.name}" has target {image.target.digest}, not {request.target.digest}: not found'
                )
            transaction.execute(
                "DELETE FROM images WHERE namespace = ? AND name = ?", (namespace, request.name)
            )
            transaction.unlease_resource(namespace, lease, "images", request.name)
            edges.forget(transaction, namespace, references.IMAGES, request.name)
            transaction.publish(namespace, "/images/delete", ImageDelete(name=request.name))

        await self._store.write(delete, urgent=True)
        if request.sync and self._collect is not None:
            await self._collect()
        return Empty()


def _seen(record: bytes) -> filtering.Lookup:
    return lookup(Image.FromString(record))


def lookup(image: Image) -> filtering.Lookup:
    """What a filter sees of an image."""

    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["name", *_]:
                return image.name or None
            case ["target", "digest", *_]:
                return image.target.digest or None
            case ["target", "mediatype", *_]:
                return image.target.media_type or None
            case ["labels", *key]:
                return labelling.lookup(image.labels, key)
            case ["annotations", *key]:
                return labelling.lookup(image.target.annotations, key)
            case _:
                return None

    return find


# -- rules --------------------------------------------------------------------------------------------------


def _validate(image: Image) -> None:
    if not image.name:
        raise errors.InvalidArgument("image name must not be empty: invalid argument")
    labelling.validate(image.labels, "image.Labels")
    target = image.target
    try:
        digests.validate(target.digest)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f'Target.Digest "{target.digest}" invalid: {error.message}') from None
    if target.size <= 0:
        raise errors.InvalidArgument("Target.Size must be greater than zero: invalid argument")
    if not target.media_type:
        raise errors.InvalidArgument("Target.MediaType must be set: invalid argument")


def _load(transaction: Transaction, namespace: str, name: str) -> Image:
    row = transaction.one(_RECORD, (namespace, name))
    if row is None:
        raise _not_found(name)
    return Image.FromString(row[0])


def _not_found(name: str) -> errors.NotFound:
    return errors.NotFound(f'image "{name}": not found')


def _time_of(request: CreateImageRequest | UpdateImageRequest) -> Timestamp:
    """Now, unless a reproducible build gives its own time."""
    if request.HasField("source_date_epoch"):
        return request.source_date_epoch
    return timestamp(time.time_ns())


def _apply(image: Image, given: Image, paths: Sequence[str]) -> None:
    """Take from `given` what the mask names; no mask: all of it."""
    for path in paths or ("labels", "target"):
        field, _, key = path.partition(".")
        if key and field == "labels":
            labelling.copy_one(image.labels, given.labels, key)
        elif key and field == "annotations":
            labelling.copy_one(image.target.annotations, given.target.annotations, key)
        elif path in _FIELDS:
            _FIELDS[path](image, given)
        else:
            raise errors.InvalidArgument(
                f'cannot update "{path}" field on image "{image.name}": invalid argument'
            )


def _replace_target(image: Image, given: Image) -> None:
    image.target.CopyFrom(given.target)


_FIELDS: Final[dict[str, Callable[[Image, Image], None]]] = {
    "labels": lambda image, given: labelling.replace(image.labels, given.labels),
    "target": _replace_target,
    "annotations": lambda image, given: labelling.replace(image.target.annotations, given.target.annotations),
}
