"""What the daemon calls itself. Apart from introspection, so that asking for a version imports one small stub."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.empty_pb2 import Empty

from longshore.api.services.version.v1 import version_pb2 as pb
from longshore.client.connection import Connection
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from longshore.api.services.version.v1.version_pb2_grpc import VersionAsyncStub


class Version(NamedTuple):
    version: str
    revision: str


async def version(connection: Connection) -> Version:
    service: VersionAsyncStub = stub(pb.DESCRIPTOR, "Version", connection.channel)
    answer = await connection.call(service.Version, Empty())
    return Version(answer.version, answer.revision)
