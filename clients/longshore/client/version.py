"""What the daemon calls itself. Apart from introspection, so that asking for a version imports one small stub."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.empty_pb2 import Empty

from longshore.api.services.version.v1.version_pb2_grpc import VersionStub
from longshore.client.connection import Connection


class Version(NamedTuple):
    version: str
    revision: str


async def version(connection: Connection) -> Version:
    answer = await connection.call(VersionStub(connection.channel).Version, Empty())
    return Version(answer.version, answer.revision)
