"""The Leases service: what a client is working on, and garbage collection must leave alone."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Sequence
from typing import Final

from google.protobuf.empty_pb2 import Empty

from longshore.api import errors
from longshore.api.services.leases.v1.leases_pb2 import (
    AddResourceRequest,
    CreateRequest,
    CreateResponse,
    DeleteRequest,
    DeleteResourceRequest,
    Lease,
    ListRequest,
    ListResourcesRequest,
    ListResourcesResponse,
    ListResponse,
    Resource,
)
from longshore.api.services.leases.v1.leases_pb2_grpc import LeasesServicer
from longshore.containerd import filters as filtering
from longshore.containerd import rpc
from longshore.containerd.gc import edges, references
from longshore.containerd.gc.collector import Collect
from longshore.containerd.metadata import digests, records
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.times import timestamp

_RECORD: Final = "SELECT record FROM leases WHERE namespace = ? AND id = ?"
_RESOURCES: Final = "SELECT type, id FROM lease_resources WHERE namespace = ? AND lease = ? ORDER BY type, id"


class LeasesService(LeasesServicer):
    """Leases and their resources. A resource need not exist to be leased."""

    def __init__(self, store: Store, collect: Collect | None = None) -> None:
        self._store = store
        self._collect = collect

    @rpc.unary(mutates=True)
    async def Create(self, request: CreateRequest, call: rpc.Call) -> CreateResponse:
        namespace = call.namespace
        lease = Lease(
            id=request.id or _new_id(), created_at=timestamp(time.time_ns()), labels=dict(request.labels)
        )
        labelling.drop_empty(lease.labels)
        record = lease.SerializeToString()

        def create(transaction: Transaction) -> None:
            transaction.ensure_namespace(namespace)
            if transaction.one(_RECORD, (namespace, lease.id)) is not None:
                raise errors.AlreadyExists(f'lease "{lease.id}": already exists')
            transaction.execute(
                "INSERT INTO leases (namespace, id, record) VALUES (?, ?, ?)", (namespace, lease.id, record)
            )
            edges.record(transaction, namespace, references.of_lease(lease.id, lease.labels))

        await self._store.write(create)
        return rpc.encoded(CreateResponse, rpc.field(1, record))

    @rpc.unary(mutates=True)
    async def Delete(self, request: DeleteRequest, call: rpc.Call) -> Empty:
        namespace = call.namespace

        def delete(transaction: Transaction) -> None:
            if not transaction.execute(
                "DELETE FROM leases WHERE namespace = ? AND id = ?", (namespace, request.id)
            ):
                raise _not_found(request.id)
            transaction.execute(
                "DELETE FROM lease_resources WHERE namespace = ? AND lease = ?", (namespace, request.id)
            )
            edges.forget(transaction, namespace, references.LEASES, request.id)

        await self._store.write(delete, urgent=True)
        if request.sync and self._collect is not None:
            await self._collect()
        return Empty()

    @rpc.unary()
    async def List(self, request: ListRequest, call: rpc.Call) -> ListResponse:
        return rpc.encoded(
            ListResponse,
            await records.answer(self._store, "leases", "id", call.namespace, request.filters, _seen),
        )

    @rpc.unary(mutates=True)
    async def AddResource(self, request: AddResourceRequest, call: rpc.Call) -> Empty:
        namespace, resource = call.namespace, request.resource

        def add(transaction: Transaction) -> None:
            _require(transaction, namespace, request.id)
            _validate(resource)
            transaction.lease_resource(namespace, request.id, resource.type, resource.id)
            transaction.changed(deleted=False)

        await self._store.write(add)
        return Empty()

    @rpc.unary(mutates=True)
    async def DeleteResource(self, request: DeleteResourceRequest, call: rpc.Call) -> Empty:
        namespace, resource = call.namespace, request.resource

        def delete(transaction: Transaction) -> None:
            _require(transaction, namespace, request.id)
            _validate(resource, deleting=True)
            transaction.unlease_resource(namespace, request.id, resource.type, resource.id)
            transaction.changed(deleted=True)

        await self._store.write(delete, urgent=True)
        return Empty()

    @rpc.unary()
    async def ListResources(self, request: ListResourcesRequest, call: rpc.Call) -> ListResourcesResponse:
        namespace = call.namespace
        known, rows = self._store.read(
            lambda connection: (
                connection.execute(_RECORD, (namespace, request.id)).fetchone(),
                connection.execute(_RESOURCES, (namespace, request.id)).fetchall(),
            )
        )
        if known is None:
            raise _not_found(request.id)
        return ListResourcesResponse(resources=[Resource(type=kind, id=id) for kind, id in rows])


def _seen(record: bytes) -> filtering.Lookup:
    return lookup(Lease.FromString(record))


def lookup(lease: Lease) -> filtering.Lookup:
    """What a filter sees of a lease."""

    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["id", *_]:
                return lease.id or None
            case ["labels", *key]:
                return labelling.lookup(lease.labels, key)
            case _:
                return None

    return find


def _new_id() -> str:
    return f"{time.time_ns()}-{base64.urlsafe_b64encode(os.urandom(3)).decode()}"


def _require(transaction: Transaction, namespace: str, id: str) -> None:
    if transaction.one(_RECORD, (namespace, id)) is None:
        raise _not_found(id)


def _not_found(id: str) -> errors.NotFound:
    return errors.NotFound(f'lease "{id}": not found')


def _validate(resource: Resource, *, deleting: bool = False) -> None:
    """Which resources a lease can hold: InvalidArgument for a malformed one, Unimplemented for an unknown kind."""
    kind, _, rest = resource.type.partition("/")
    if kind not in ("content", "images", "ingests", "snapshots"):
        raise errors.Unimplemented(f"resource type {resource.type} not supported yet: not implemented")
    if kind == "snapshots" and (not rest or "/" in rest):
        raise errors.InvalidArgument(f"invalid snapshot resource type {resource.type}: invalid argument")
    if kind != "snapshots" and resource.type != kind:
        raise errors.InvalidArgument(f"invalid resource type {resource.type}: invalid argument")
    if kind == "content":
        try:
            digests.validate(resource.id)
        except errors.InvalidArgument as error:
            text = f"invalid content resource id {resource.id}: {error.message}"
            raise errors.InvalidArgument(text) from None
    elif not resource.id and not deleting:
        raise errors.InvalidArgument(f"resource id of type {resource.type} required: invalid argument")
