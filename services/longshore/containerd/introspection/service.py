"""The Introspection service: what the daemon consists of, and which daemon it is."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.rpc.status_pb2 import Status

from longshore.api import errors
from longshore.api.services.introspection.v1.introspection_pb2 import (
    Plugin,
    PluginInfoRequest,
    PluginInfoResponse,
    PluginsRequest,
    PluginsResponse,
    ServerResponse,
)
from longshore.api.services.introspection.v1.introspection_pb2_grpc import IntrospectionServicer
from longshore.api.types.platform_pb2 import Platform
from longshore.containerd import filters as filtering
from longshore.containerd import rpc
from longshore.containerd.plugins import PluginRecord

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

# Asked for details of one part (a runtime's version and features): (options of the request) -> extra.
Informer = Callable[[Any | None], Awaitable[Any | None]]


class IntrospectionService(IntrospectionServicer):
    """Needs no namespace. `plugins` may still grow while the daemon is being built; it is read at each call."""

    def __init__(self, plugins: Sequence[PluginRecord], uuid_path: Path) -> None:
        self._plugins = plugins
        self._uuid_path = uuid_path
        self._informers: dict[tuple[str, str], Informer] = {}

    def inform(self, type: str, id: str, informer: Informer) -> None:
        """Let a part answer PluginInfo's `extra` for itself."""
        self._informers[type, id] = informer

    @rpc.unary()
    async def Plugins(self, request: PluginsRequest, call: rpc.Call) -> PluginsResponse:
        keep = filtering.of_records(request.filters)
        messages = [_message(plugin) for plugin in self._plugins]
        return PluginsResponse(plugins=[message for message in messages if keep(lookup(message))])

    @rpc.unary()
    async def Server(self, request: Empty, call: rpc.Call) -> ServerResponse:
        return ServerResponse(
            uuid=self._uuid(), pid=os.getpid(), pidns=os.stat("/proc/self/ns/pid").st_ino, deprecations=[]
        )

    @rpc.unary()
    async def PluginInfo(self, request: PluginInfoRequest, call: rpc.Call) -> PluginInfoResponse:
        for plugin in self._plugins:
            if (plugin.type, plugin.id) == (request.type, request.id):
                informer = self._informers.get((request.type, request.id))
                options = request.options if request.HasField("options") else None
                extra = await informer(options) if informer is not None else None
                return PluginInfoResponse(plugin=_message(plugin), extra=extra)
        raise errors.NotFound(f'plugin "{request.type}.{request.id}": not found')

    def _uuid(self) -> str:
        """Made once in the life of a root directory, when somebody first asks."""
        try:
            known = self._uuid_path.read_text().strip()
        except FileNotFoundError:
            known = ""
        if known:
            return known
        self._uuid_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = str(uuid.uuid4())
        partial = self._uuid_path.with_suffix(".new")
        partial.write_text(fresh)
        partial.rename(self._uuid_path)
        return fresh


def lookup(plugin: Plugin) -> filtering.Lookup:
    """What a filter sees of a plugin."""

    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["type", *_]:
                return plugin.type or None
            case ["id", *_]:
                return plugin.id or None
            case _:
                return None

    return find


def _message(plugin: PluginRecord) -> Plugin:
    message = Plugin(
        type=plugin.type,
        id=plugin.id,
        requires=plugin.requires,
        exports=dict(plugin.exports),
        capabilities=plugin.capabilities,
    )
    if plugin.has_platform:
        machine = platform.machine()
        message.platforms.append(Platform(os="linux", architecture=_ARCHITECTURES.get(machine, machine)))
    if plugin.error is not None:
        message.init_err.CopyFrom(Status(code=plugin.error.code, message=plugin.error.message))
    return message
