"""Leases keep content and snapshots from the garbage collector while they are being put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from longshore.api.errors import NotFound
from longshore.api.services.leases.v1 import leases_pb2 as pb
from longshore.api.services.leases.v1.leases_pb2_grpc import LeasesStub
from longshore.client.connection import Connection

Lease = pb.Lease
Resource = pb.Resource

EXPIRE_LABEL = "containerd.io/gc.expire"


def expiry(seconds: float) -> str:
    """The value of the expire label: RFC 3339, so many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Leases:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = LeasesStub(connection.channel)

    async def create(
        self, *, id: str = "", expires: float | None = None, labels: Mapping[str, str] | None = None
    ) -> Lease:
        """Make a lease; without `id` the daemon names it. `expires` in seconds, None for never."""
        labels = dict(labels or {})
        if expires is not None:
            labels[EXPIRE_LABEL] = expiry(expires)
        return (await self._connection.call(self._stub.Create, pb.CreateRequest(id=id, labels=labels))).lease

    async def delete(self, id: str, *, sync: bool = False) -> None:
        """End a lease; with `sync` return only after the garbage collection that follows. Raises NotFound."""
        await self._connection.call(self._stub.Delete, pb.DeleteRequest(id=id, sync=sync))

    async def add_resource(self, lease: str, type: str, id: str) -> None:
        """`type` is "content", "ingests" or "snapshots/<snapshotter>". The resource need not exist yet."""
        request = pb.AddResourceRequest(id=lease, resource=Resource(id=id, type=type))
        await self._connection.call(self._stub.AddResource, request)

    async def delete_resource(self, lease: str, type: str, id: str) -> None:
        request = pb.DeleteResourceRequest(id=lease, resource=Resource(id=id, type=type))
        await self._connection.call(self._stub.DeleteResource, request)

    async def resources(self, lease: str) -> list[Resource]:
        request = pb.ListResourcesRequest(id=lease)
        return list((await self._connection.call(self._stub.ListResources, request)).resources)

    @asynccontextmanager
    async def hold(
        self, *, id: str = "", expires: float | None = 24 * 3600, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[Lease]:
        """A lease for the length of the block. `AsyncClient.leased` is this plus the header."""
        lease = await self.create(id=id, expires=expires, labels=labels)
        try:
            yield lease
        finally:
            try:
                await self.delete(lease.id)
            except NotFound:
                pass

    async def list(self, filters: Sequence[str] = ()) -> list[Lease]:
        return list((await self._connection.call(self._stub.List, pb.ListRequest(filters=filters))).leases)
