"""Layers to and from snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from longshore.api.services.diff.v1 import diff_pb2 as pb
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.mount_pb2 import Mount
from longshore.client.connection import Connection
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from longshore.api.services.diff.v1.diff_pb2_grpc import DiffAsyncStub


class Diffs:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: DiffAsyncStub = stub(pb.DESCRIPTOR, "Diff", connection.channel)

    async def apply(self, layer: Descriptor, mounts: Sequence[Mount], *, sync_fs: bool = False) -> Descriptor:
        """Untar a layer blob into the mounts.

        The answer describes the uncompressed stream: its digest is the DiffID.
        """
        request = pb.ApplyRequest(diff=layer, mounts=mounts, sync_fs=sync_fs)
        return (await self._connection.call(self._stub.Apply, request)).applied

    async def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Write what `upper` changed as a layer blob into the content store."""
        request = pb.DiffRequest(left=lower, right=upper, media_type=media_type, ref=ref, labels=labels or {})
        return (await self._connection.call(self._stub.Diff, request)).diff
