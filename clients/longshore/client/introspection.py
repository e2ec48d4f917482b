"""What the daemon is and what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from longshore.api.services.introspection.v1 import introspection_pb2 as pb
from longshore.client.connection import Connection
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from longshore.api.services.introspection.v1.introspection_pb2_grpc import IntrospectionAsyncStub

Plugin = pb.Plugin
Server = pb.ServerResponse


class Introspection:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub: IntrospectionAsyncStub = stub(pb.DESCRIPTOR, "Introspection", connection.channel)

    async def plugins(self, filters: Sequence[str] = ()) -> list[Plugin]:
        """The daemon's parts; filters know `type` and `id`."""
        return list(
            (await self._connection.call(self._stub.Plugins, pb.PluginsRequest(filters=filters))).plugins
        )

    async def server(self) -> Server:
        """UUID, pid, pid namespace and deprecations."""
        return await self._connection.call(self._stub.Server, Empty())

    async def plugin_info(self, type: str, id: str, options: Any | None = None) -> pb.PluginInfoResponse:
        """One plugin in detail; the runtime plugin answers with the runtime's features. Unimplemented before 2.0."""
        request = pb.PluginInfoRequest(type=type, id=id, options=options)
        return await self._connection.call(self._stub.PluginInfo, request)
