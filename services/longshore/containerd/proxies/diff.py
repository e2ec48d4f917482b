"""A differ in another process, and the order in which differs are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from longshore.api import errors
from longshore.api.namespaces import GRPC_HEADER, LEASE_HEADER
from longshore.api.services.diff.v1.diff_pb2 import ApplyRequest, ApplyResponse, DiffRequest, DiffResponse
from longshore.api.services.diff.v1.diff_pb2_grpc import DiffServicer, DiffStub
from longshore.containerd import rpc
from longshore.containerd.diff.differ import Differ
from longshore.containerd.scope import Scope


class ProxyDiffer:
    """A Differ. It finds content by calling us back, in the caller's namespace and lease."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = DiffStub(channel)

    async def apply(self, scope: Scope, request: ApplyRequest) -> ApplyResponse:
        answer: ApplyResponse = await _ask(self._stub.Apply, request, scope)
        return answer

    async def compare(self, scope: Scope, request: DiffRequest) -> DiffResponse:
        answer: DiffResponse = await _ask(self._stub.Diff, request, scope)
        return answer


async def _ask(method: Any, request: Any, scope: Scope) -> Any:
    metadata = [(GRPC_HEADER, scope.namespace)]
    if scope.lease:
        metadata.append((LEASE_HEADER, scope.lease))
    try:
        return await method(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise errors.from_code(error.code().value[0], error.details() or error.code().name.lower()) from None


class DifferChain(DiffServicer):
    """The Diff service over several differs: the first that doesn't answer Unimplemented does it.

    `differs` may grow until the daemon serves; `order` names those that are asked.
    """

    def __init__(self, differs: Mapping[str, Differ], order: Sequence[str]) -> None:
        self._differs, self._order = differs, order

    @rpc.unary(mutates=True)
    async def Apply(self, request: ApplyRequest, call: rpc.Call) -> ApplyResponse:
        return await self.apply(Scope(call.namespace, call.lease), request)

    @rpc.unary(mutates=True)
    async def Diff(self, request: DiffRequest, call: rpc.Call) -> DiffResponse:
        return await self.compare(Scope(call.namespace, call.lease), request)

    async def apply(self, scope: Scope, request: ApplyRequest) -> ApplyResponse:
        refusal: errors.Error = errors.Unimplemented("no differ is loaded: not implemented")
        for differ in self._asked():
            try:
                return await differ.apply(scope, request)
            except errors.Unimplemented as error:
                refusal = error
        raise refusal

    async def compare(self, scope: Scope, request: DiffRequest) -> DiffResponse:
        refusal: errors.Error = errors.Unimplemented("no differ is loaded: not implemented")
        for differ in self._asked():
            try:
                return await differ.compare(scope, request)
            except errors.Unimplemented as error:
                refusal = error
        raise refusal

    def _asked(self) -> list[Differ]:
        return [self._differs[name] for name in self._order if name in self._differs]
