"""Leases keep content and snapshots from the garbage collector while they are being put together.

A lease that a block holds says in a label which process made it. One whose
process was killed would keep for a day what nobody wants: `end_abandoned`
ends such leases.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from longshore.api.errors import NotFound
from longshore.api.services.leases.v1 import leases_pb2 as pb
from longshore.client.connection import Connection
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from longshore.api.services.leases.v1.leases_pb2_grpc import LeasesAsyncStub

Lease = pb.Lease
Resource = pb.Resource

EXPIRE_LABEL = "containerd.io/gc.expire"
HOLDER_LABEL = "longshore.io/held-by"
PULLING_LABEL = "longshore.io/pulling"  # what a pull is under way for: the image's name


def expiry(seconds: float) -> str:
    """The value of the expire label: RFC 3339, so many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def holder(pid: int | None = None) -> str:
    """A process (ours, or `pid` in our pid namespace) as no other is called: boot, pid namespace, pid, start time.

    Raises FileNotFoundError when there is no such process.
    """
    pid = pid or os.getpid()
    with open(f"/proc/{pid}/stat") as file:
        started = file.read().rpartition(")")[2].split()[19]
    return f"{_place()}/{pid}/{started}"


def _place() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def is_abandoned(lease: Lease) -> bool:
    """Whether the process that held it has ended; of one in another pid namespace we can't tell."""
    held_by = lease.labels.get(HOLDER_LABEL, "")
    place, _, pid = held_by.rpartition("/")[0].rpartition("/")
    if not pid.isdigit():
        return False
    boot, ours = place.partition("/")[0], _place()
    if boot != ours.partition("/")[0]:
        return True  # the machine was started anew: a socket is of the same machine as its client
    try:
        return place == ours and holder(int(pid)) != held_by
    except (FileNotFoundError, ProcessLookupError):
        return True


class Leases:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: LeasesAsyncStub = stub(pb.DESCRIPTOR, "Leases", connection.channel)

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
        lease = await self.create(id=id, expires=expires, labels={HOLDER_LABEL: holder(), **(labels or {})})
        try:
            yield lease
        finally:
            with suppress(NotFound):
                await self.delete(lease.id)

    async def abandoned(self, filter: str = "") -> Sequence[Lease]:
        """Leases of blocks whose process was killed."""
        wanted = f'labels."{HOLDER_LABEL}"' + (f",{filter}" if filter else "")
        return [lease for lease in await self.list([wanted]) if is_abandoned(lease)]

    async def end_abandoned(self) -> None:
        """End them, but for those of pulls, which the next pull of the same image goes on with."""
        for lease in await self.abandoned():
            if PULLING_LABEL not in lease.labels:
                with suppress(NotFound):
                    await self.delete(lease.id)

    async def list(self, filters: Sequence[str] = ()) -> list[Lease]:
        return list((await self._connection.call(self._stub.List, pb.ListRequest(filters=filters))).leases)
