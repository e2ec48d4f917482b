"""The Namespaces service: tenants, their labels, and the proof that one is empty before it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from google.protobuf.empty_pb2 import Empty

from longshore.api import errors
from longshore.api.events.namespace_pb2 import NamespaceCreate, NamespaceDelete, NamespaceUpdate
from longshore.api.namespaces import validate_identifier
from longshore.api.services.namespaces.v1.namespace_pb2 import (
    CreateNamespaceRequest,
    CreateNamespaceResponse,
    DeleteNamespaceRequest,
    GetNamespaceRequest,
    GetNamespaceResponse,
    ListNamespacesRequest,
    ListNamespacesResponse,
    Namespace,
    UpdateNamespaceRequest,
    UpdateNamespaceResponse,
)
from longshore.api.services.namespaces.v1.namespace_pb2_grpc import NamespacesServicer
from longshore.containerd import rpc
from longshore.containerd.gc import edges, references
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata.store import Store, Transaction

# containerd's database keeps its schema number under this name, where namespaces are; clients avoid it.
_RESERVED: Final = "version"

_LABELS: Final = "SELECT labels FROM namespaces WHERE name = ?"


class NamespacesService(NamespacesServicer):
    """Needs no namespace header: the namespace is the object here. Events go out in the namespace they are about."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @rpc.unary()
    async def Get(self, request: GetNamespaceRequest, call: rpc.Call) -> GetNamespaceResponse:
        # An unknown namespace is as good as an empty one: it springs into existence when it is used.
        row = self._store.read(lambda connection: connection.execute(_LABELS, (request.name,)).fetchone())
        labels = labelling.loads(row[0]) if row else {}
        return GetNamespaceResponse(namespace=Namespace(name=request.name, labels=labels))

    @rpc.unary()
    async def List(self, request: ListNamespacesRequest, call: rpc.Call) -> ListNamespacesResponse:
        rows = self._store.read(
            lambda connection: connection.execute(
                "SELECT name, labels FROM namespaces ORDER BY name"
            ).fetchall()
        )
        return ListNamespacesResponse(
            namespaces=[Namespace(name=name, labels=labelling.loads(labels)) for name, labels in rows]
        )

    @rpc.unary(mutates=True)
    async def Create(self, request: CreateNamespaceRequest, call: rpc.Call) -> CreateNamespaceResponse:
        namespace = request.namespace
        _validate(namespace)
        labels = {key: value for key, value in namespace.labels.items() if value}

        def create(transaction: Transaction) -> None:
            if transaction.one(_LABELS, (namespace.name,)) is not None:
                raise errors.AlreadyExists(f'namespace "{namespace.name}": already exists')
            _write(transaction, namespace.name, labels)
            event = NamespaceCreate(name=namespace.name, labels=namespace.labels)
            transaction.publish(namespace.name, "/namespaces/create", event)

        await self._store.write(create)
        return CreateNamespaceResponse(namespace=namespace)

    @rpc.unary(mutates=True)
    async def Update(self, request: UpdateNamespaceRequest, call: rpc.Call) -> UpdateNamespaceResponse:
        name, given = request.namespace.name, request.namespace.labels
        keys = [_label_of(path) for path in request.update_mask.paths]
        _validate(request.namespace)

        def update(transaction: Transaction) -> dict[str, str]:
            row = transaction.one(_LABELS, (name,))
            labels = labelling.loads(row[0]) if row and keys else {}
            for key in keys or given:
                labelling.copy_one(labels, given, key)
            # One without labels is not made by being updated.
            if row or labels:
                _write(transaction, name, labels)
            transaction.publish(name, "/namespaces/update", NamespaceUpdate(name=name, labels=given))
            return labels

        labels = await self._store.write(update)
        return UpdateNamespaceResponse(namespace=Namespace(name=name, labels=labels))

    @rpc.unary(mutates=True)
    async def Delete(self, request: DeleteNamespaceRequest, call: rpc.Call) -> Empty:
        name = request.name

        def delete(transaction: Transaction) -> None:
            if kinds := list(_contents(transaction, name)):
                raise errors.FailedPrecondition(
                    f'namespace "{name}" must be empty, but it still has {", ".join(kinds)}: failed precondition'
                )
            if not transaction.execute("DELETE FROM namespaces WHERE name = ?", (name,)):
                raise errors.NotFound(f'namespace "{name}": not found')
            # Leases keep nothing alive but what is gone already.
            transaction.execute("DELETE FROM leases WHERE namespace = ?", (name,))
            transaction.execute("DELETE FROM lease_resources WHERE namespace = ?", (name,))
            edges.forget_all(transaction, name, references.LEASES)
            transaction.publish(name, "/namespaces/delete", NamespaceDelete(name=name))

        await self._store.write(delete, urgent=True)
        return Empty()


def _validate(namespace: Namespace) -> None:
    validate_identifier(namespace.name)
    if namespace.name == _RESERVED:
        raise errors.InvalidArgument(f'namespace "{_RESERVED}" is reserved: invalid argument')
    labelling.validate(namespace.labels, "namespace.Labels")


def _label_of(path: str) -> str:
    if not path.startswith("labels."):
        raise errors.InvalidArgument(f'cannot update "{path}" field')
    return path.removeprefix("labels.")


def _write(transaction: Transaction, name: str, labels: Mapping[str, str]) -> None:
    transaction.execute(
        "INSERT INTO namespaces VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET labels = excluded.labels",
        (name, labelling.dumps(labels)),
    )


def _contents(transaction: Transaction, name: str) -> Iterator[str]:
    """What a namespace still has, in containerd's order and words."""
    for kind in ("images", "blobs", "containers"):
        if transaction.one(f"SELECT 1 FROM {kind} WHERE namespace = ? LIMIT 1", (name,)) is not None:
            yield kind
    for (snapshotter,) in transaction.query(
        "SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ? ORDER BY snapshotter", (name,)
    ):
        yield f'snapshots on "{snapshotter}" snapshotter'
