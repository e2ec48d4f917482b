"""The Version service: which containerd this is (compatible with)."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from longshore.api.services.version.v1.version_pb2 import VersionResponse
from longshore.api.services.version.v1.version_pb2_grpc import VersionServicer
from longshore.containerd import rpc
from longshore.containerd.version import REVISION, VERSION


class VersionService(VersionServicer):
    """Answers without a namespace: clients use it to see whether anybody is there."""

    @rpc.unary()
    async def Version(self, request: Empty, call: rpc.Call) -> VersionResponse:
        return VersionResponse(version=VERSION, revision=REVISION)
