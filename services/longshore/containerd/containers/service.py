"""The Containers service: records of what a container should be. Whether it runs is the Tasks service's matter.

A record is stored as the bytes of its message, and a list without filters is
those bytes joined: nothing is decoded.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Final

from google.protobuf.empty_pb2 import Empty

from longshore.api import errors
from longshore.api.events.container_pb2 import ContainerCreate, ContainerDelete, ContainerUpdate
from longshore.api.namespaces import validate_identifier
from longshore.api.services.containers.v1.containers_pb2 import (
    Container,
    CreateContainerRequest,
    CreateContainerResponse,
    DeleteContainerRequest,
    GetContainerRequest,
    GetContainerResponse,
    ListContainerMessage,
    ListContainersRequest,
    ListContainersResponse,
    UpdateContainerRequest,
    UpdateContainerResponse,
)
from longshore.api.services.containers.v1.containers_pb2_grpc import ContainersServicer
from longshore.containerd import filters as filtering
from longshore.containerd import rpc
from longshore.containerd.gc import edges, references
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata import records
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.times import timestamp

_RECORD: Final = "SELECT record FROM containers WHERE namespace = ? AND id = ?"


class ContainersService(ContainersServicer):
    """CRUD on records; every change publishes its event in the same transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @rpc.unary()
    async def Get(self, request: GetContainerRequest, call: rpc.Call) -> GetContainerResponse:
        namespace = call.namespace
        row = self._store.read(
            lambda connection: connection.execute(_RECORD, (namespace, request.id)).fetchone()
        )
        if row is None:
            raise errors.NotFound(f'container "{request.id}" in namespace "{namespace}": not found')
        return rpc.encoded(GetContainerResponse, rpc.field(1, row[0]))

    @rpc.unary()
    async def List(self, request: ListContainersRequest, call: rpc.Call) -> ListContainersResponse:
        return rpc.encoded(
            ListContainersResponse,
            await records.answer(self._store, "containers", "id", call.namespace, request.filters, _seen),
        )

    @rpc.server_stream
    async def ListStream(
        self, request: ListContainersRequest, call: rpc.Call
    ) -> AsyncGenerator[ListContainerMessage, None]:
        found = await records.select(self._store, "containers", "id", call.namespace, request.filters, _seen)
        for record in found:
            yield rpc.encoded(ListContainerMessage, rpc.field(1, record))

    @rpc.unary(mutates=True)
    async def Create(self, request: CreateContainerRequest, call: rpc.Call) -> CreateContainerResponse:
        namespace, container = call.namespace, request.container
        _validate(container, "create container failed validation")
        labelling.drop_empty(container.labels)
        container.created_at.CopyFrom(timestamp(time.time_ns()))
        container.updated_at.CopyFrom(container.created_at)
        record = container.SerializeToString()

        def create(transaction: Transaction) -> None:
            transaction.ensure_namespace(namespace)
            if transaction.one(_RECORD, (namespace, container.id)) is not None:
                raise errors.AlreadyExists(f'container "{container.id}": already exists')
            transaction.execute(
                "INSERT INTO containers (namespace, id, record) VALUES (?, ?, ?)",
                (namespace, container.id, record),
            )
            edges.record(transaction, namespace, edges.of_container(container))
            transaction.publish(namespace, "/containers/create", _created(container))

        await self._store.write(create)
        return rpc.encoded(CreateContainerResponse, rpc.field(1, record))

    @rpc.unary(mutates=True)
    async def Update(self, request: UpdateContainerRequest, call: rpc.Call) -> UpdateContainerResponse:
        given, paths = request.container, list(request.update_mask.paths)
        if not given.id:
            raise errors.InvalidArgument("Container.ID required")
        namespace = call.namespace

        def update(transaction: Transaction) -> bytes:
            container = _load(transaction, namespace, given.id)
            _apply(container, given, paths)
            _validate(container, "update failed validation")
            labelling.drop_empty(container.labels)
            container.updated_at.CopyFrom(timestamp(time.time_ns()))
            record = container.SerializeToString()
            transaction.execute(
                "UPDATE containers SET record = ? WHERE namespace = ? AND id = ?",
                (record, namespace, container.id),
            )
            edges.record(transaction, namespace, edges.of_container(container))
            transaction.publish(namespace, "/containers/update", _updated(container))
            return record

        return rpc.encoded(UpdateContainerResponse, rpc.field(1, await self._store.write(update)))

    @rpc.unary(mutates=True)
    async def Delete(self, request: DeleteContainerRequest, call: rpc.Call) -> Empty:
        namespace = call.namespace

        def delete(transaction: Transaction) -> None:
            if not transaction.execute(
                "DELETE FROM containers WHERE namespace = ? AND id = ?", (namespace, request.id)
            ):
                raise _absent(transaction, namespace, "delete", request.id, f"container {request.id}")
            edges.forget(transaction, namespace, references.CONTAINERS, request.id)
            transaction.publish(namespace, "/containers/delete", ContainerDelete(id=request.id))

        await self._store.write(delete, urgent=True)
        return Empty()


def _seen(record: bytes) -> filtering.Lookup:
    return lookup(Container.FromString(record))


def lookup(container: Container) -> filtering.Lookup:
    """What a filter sees of a container."""

    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["id", *_]:
                return container.id or None
            case ["runtime", "name", *_]:
                return container.runtime.name or None
            case ["image", *_]:
                return container.image or None
            case ["labels", *key]:
                return labelling.lookup(container.labels, key)
            case _:
                return None

    return find


# -- rules --------------------------------------------------------------------------------------------------


def _validate(container: Container, what: str) -> None:
    try:
        validate_identifier(container.id)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"{what}: container.ID: {error.message}") from None
    if "" in container.extensions:
        raise errors.InvalidArgument(
            f"{what}: container.Extension keys must not be zero-length: invalid argument"
        )
    labelling.validate(container.labels, f"{what}: containers.Labels")
    for broken, text in _requirements(container):
        if broken:
            raise errors.InvalidArgument(f"{what}: {text}: invalid argument")


def _requirements(container: Container) -> Iterator[tuple[bool, str]]:
    yield not container.runtime.name, "container.Runtime.Name must be set"
    yield not container.HasField("spec"), "container.Spec must be set"
    yield (
        bool(container.snapshot_key) and not container.snapshotter,
        "container.Snapshotter must be set if container.SnapshotKey is set",
    )


def _load(transaction: Transaction, namespace: str, id: str) -> Container:
    row = transaction.one(_RECORD, (namespace, id))
    if row is None:
        raise _absent(transaction, namespace, "update", id, f'container "{id}"')
    return Container.FromString(row[0])


def _absent(transaction: Transaction, namespace: str, verb: str, id: str, plain: str) -> errors.NotFound:
    """containerd words it differently in a namespace that has no containers at all."""
    if transaction.one("SELECT 1 FROM containers WHERE namespace = ? LIMIT 1", (namespace,)) is None:
        return errors.NotFound(f'cannot {verb} container "{id}" in namespace "{namespace}": not found')
    return errors.NotFound(f"{plain}: not found")


def _apply(container: Container, given: Container, paths: Sequence[str]) -> None:
    """Take from `given` what the mask names; no mask: all that may change, if the rest is as before."""
    if not paths:
        if given.snapshotter != container.snapshotter:
            raise errors.InvalidArgument("container.Snapshotter field is immutable: invalid argument")
        if given.runtime.name != container.runtime.name:
            raise errors.InvalidArgument("container.Runtime.Name field is immutable: invalid argument")
    for path in paths or _FIELDS:
        field, _, key = path.partition(".")
        if key and field == "labels":
            labelling.copy_one(container.labels, given.labels, key)
        elif key and field == "extensions":
            _copy_extension(container, given, key)
        elif path in _FIELDS:
            _FIELDS[path](container, given)
        else:
            raise errors.InvalidArgument(
                f'cannot update "{path}" field on "{container.id}": invalid argument'
            )


def _copy_extension(container: Container, given: Container, key: str) -> None:
    if key in given.extensions:
        container.extensions[key].CopyFrom(given.extensions[key])
    else:
        container.extensions.pop(key, None)


def _replace_spec(container: Container, given: Container) -> None:
    container.ClearField("spec")
    if given.HasField("spec"):
        container.spec.CopyFrom(given.spec)


def _replace_extensions(container: Container, given: Container) -> None:
    container.ClearField("extensions")
    for key, value in given.extensions.items():
        container.extensions[key].CopyFrom(value)


def _replace_image(container: Container, given: Container) -> None:
    container.image = given.image


def _replace_snapshot_key(container: Container, given: Container) -> None:
    container.snapshot_key = given.snapshot_key


# What a mask may name, and what an update without a mask replaces.
_FIELDS: Final[dict[str, Callable[[Container, Container], None]]] = {
    "labels": lambda container, given: labelling.replace(container.labels, given.labels),
    "spec": _replace_spec,
    "extensions": _replace_extensions,
    "image": _replace_image,
    "snapshotkey": _replace_snapshot_key,
}


# -- events -------------------------------------------------------------------------------------------------


def _created(container: Container) -> ContainerCreate:
    event = ContainerCreate(id=container.id, image=container.image)
    event.runtime.name = container.runtime.name
    if container.runtime.HasField("options"):
        event.runtime.options.CopyFrom(container.runtime.options)
    return event


def _updated(container: Container) -> ContainerUpdate:
    return ContainerUpdate(
        id=container.id,
        image=container.image,
        labels=dict(container.labels),
        snapshot_key=container.snapshot_key,
    )
