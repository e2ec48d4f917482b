"""Namespaces: each isolates containers, images, content records and snapshots of one tenant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from longshore.api.services.namespaces.v1 import namespace_pb2 as pb
from longshore.client.connection import Connection
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from longshore.api.services.namespaces.v1.namespace_pb2_grpc import NamespacesAsyncStub

Namespace = pb.Namespace


class Namespaces:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: NamespacesAsyncStub = stub(pb.DESCRIPTOR, "Namespaces", connection.channel)

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> Namespace:
        """Raises AlreadyExists. Optional: a namespace springs into being with the first thing written in it."""
        request = pb.CreateNamespaceRequest(namespace=Namespace(name=name, labels=labels or {}))
        return (await self._connection.call(self._stub.Create, request)).namespace

    async def get(self, name: str) -> Namespace:
        """An unknown name is no error to containerd: it answers with no labels."""
        return (await self._connection.call(self._stub.Get, pb.GetNamespaceRequest(name=name))).namespace

    async def label(self, name: str, labels: Mapping[str, str]) -> Namespace:
        """Set these labels and leave the others; an empty value removes one."""
        request = pb.UpdateNamespaceRequest(
            namespace=Namespace(name=name, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        await self._connection.call(self._stub.Update, request)
        return await self.get(name)  # old daemons answer with an empty one

    async def delete(self, name: str) -> None:
        """Raises FailedPrecondition, naming what remains, unless the namespace is empty."""
        await self._connection.call(self._stub.Delete, pb.DeleteNamespaceRequest(name=name))

    async def list(self) -> list[Namespace]:
        return list((await self._connection.call(self._stub.List, pb.ListNamespacesRequest())).namespaces)
