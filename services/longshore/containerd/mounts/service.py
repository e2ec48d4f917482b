"""The Mounts service: mounts that need more than mount(2), made by the daemon and kept until they are given back."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.empty_pb2 import Empty

from longshore.api import errors
from longshore.api.services.mounts.v1.mounts_pb2 import (
    ActivateRequest,
    ActivateResponse,
    DeactivateRequest,
    InfoRequest,
    InfoResponse,
    ListMessage,
    ListRequest,
    UpdateRequest,
    UpdateResponse,
)
from longshore.api.services.mounts.v1.mounts_pb2_grpc import MountsServicer
from longshore.api.types.mount_pb2 import ActivationInfo
from longshore.containerd import filters as filtering
from longshore.containerd import rpc
from longshore.containerd.gc.collector import IsThere
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.mounts.manager import Activations

log = structlog.get_logger("mounts")

T = TypeVar("T")


class MountsService(MountsServicer):
    def __init__(self, activations: Activations) -> None:
        self._activations = activations
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    @rpc.unary(mutates=True)
    async def Activate(self, request: ActivateRequest, call: rpc.Call) -> ActivateResponse:
        namespace, labels = call.namespace, dict(request.labels)
        labelling.drop_empty(labels)
        info = await self._alone(
            namespace,
            request.name,
            lambda: self._activations.activate(
                namespace,
                request.name,
                request.mounts,
                labels,
                lease=call.lease,
                temporary=request.temporary,
            ),
        )
        return ActivateResponse(info=info)

    @rpc.unary(mutates=True)
    async def Deactivate(self, request: DeactivateRequest, call: rpc.Call) -> Empty:
        namespace = call.namespace
        await self._alone(
            namespace, request.name, lambda: self._activations.deactivate(namespace, request.name)
        )
        return Empty()

    @rpc.unary()
    async def Info(self, request: InfoRequest, call: rpc.Call) -> InfoResponse:
        return InfoResponse(info=await asyncio.to_thread(self._activations.get, call.namespace, request.name))

    @rpc.unary(mutates=True)
    async def Update(self, request: UpdateRequest, call: rpc.Call) -> UpdateResponse:
        namespace, given = call.namespace, request.info
        keys = _label_keys(request.update_mask.paths)
        info = await self._alone(
            namespace,
            given.name,
            lambda: self._activations.relabel(namespace, given.name, dict(given.labels), keys),
        )
        return UpdateResponse(info=info)

    @rpc.server_stream
    async def List(self, request: ListRequest, call: rpc.Call) -> AsyncGenerator[ListMessage, None]:
        keep = filtering.compile(request.filters)
        for info in await asyncio.to_thread(self._activations.all, call.namespace):
            if keep(lookup(info)):
                yield ListMessage(info=info)

    async def release(self, is_there: IsThere) -> None:
        """Take back the activations whose lease is gone; one in use is tried again at the next collection."""
        for namespace, name, lease in await asyncio.to_thread(self._activations.leased):
            if is_there(namespace, lease):
                continue
            try:
                await self._alone(namespace, name, partial(self._activations.deactivate, namespace, name))
            except errors.NotFound:
                pass
            except errors.Error as error:
                log.warning("mounts of a lease that is gone", name=name, error=error.message)

    async def _alone(self, namespace: str, name: str, work: Callable[[], T]) -> T:
        """One change of a name at a time, in a thread."""
        async with self._locks[namespace, name] as _:
            try:
                return await asyncio.to_thread(work)
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                raise errors.Error(f"{where}{(error.strerror or str(error)).lower()}: unknown") from None


def lookup(info: ActivationInfo) -> filtering.Lookup:
    """What a filter sees of an activation."""

    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["name", *_]:
                return info.name or None
            case ["labels", *key]:
                return labelling.lookup(info.labels, key)
            case _:
                return None

    return find


def _label_keys(paths: Sequence[str]) -> list[str]:
    keys = [path.removeprefix("labels.") for path in paths if path != "labels"]
    if any(not path.startswith("labels.") for path in paths if path != "labels"):
        raise errors.InvalidArgument("only labels of a mount activation can be updated: invalid argument")
    return [] if "labels" in paths else keys
