"""Our own service: Plan, Explain and Collect."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from typing import cast

from longshore.api import errors
from longshore.api.namespaces import GRPC_HEADER
from longshore.api.services.gc.v1.gc_pb2 import (
    CollectRequest,
    CollectResponse,
    ExplainRequest,
    ExplainResponse,
    Explanation,
    Garbage,
    Link,
    Object,
    PlanRequest,
    PlanResponse,
)
from longshore.api.services.gc.v1.gc_pb2_grpc import GCServicer
from longshore.containerd import rpc
from longshore.containerd.content.store import ContentStore
from longshore.containerd.gc import explain, mark
from longshore.containerd.gc.collector import Collect, Collection
from longshore.containerd.gc.holds import Holds
from longshore.containerd.gc.mark import Node
from longshore.containerd.metadata.store import Store
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.snapshotter import Snapshotter


class GCService(GCServicer):
    def __init__(
        self,
        store: Store,
        holds: Holds,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        collect: Collect | None,
    ) -> None:
        self._store = store
        self._content = content
        self._holds = holds
        self._snapshotters = snapshotters
        self._collect = collect

    @rpc.unary()
    async def Plan(self, request: PlanRequest, call: rpc.Call) -> PlanResponse:
        namespace, held = _namespace(call), self._holds.held()
        sized = await self._store.read_in_thread(
            lambda connection: _sized(connection, mark.garbage(connection, time.time_ns(), held), namespace)
        )
        answer = PlanResponse()
        for node, size in sized:
            if node.kind == "ingests" or node.kind.startswith("snapshots/"):
                size = await self._usage(node)
            answer.garbage.append(Garbage(object=_object(node), size=size))
        return answer

    async def _usage(self, node: Node) -> int:
        scope = Scope(node.namespace)
        try:
            if node.kind == "ingests":
                return (await self._content.status(scope, node.id)).offset
            snapshotter = self._snapshotters.get(node.kind.partition("/")[2])
            return 0 if snapshotter is None else (await snapshotter.usage(scope, node.id)).size
        except errors.NotFound:  # gone meanwhile
            return 0

    @rpc.unary()
    async def Explain(self, request: ExplainRequest, call: rpc.Call) -> ExplainResponse:
        if not request.id:
            raise errors.InvalidArgument("an object's id is required: invalid argument")
        namespace, held, now = _namespace(call), self._holds.held(), time.time_ns()

        def read(connection: sqlite3.Connection) -> list[explain.Explanation]:
            nodes = explain.find(connection, namespace, request.kind, request.id)
            return [explain.explain(connection, node, now, held) for node in nodes]

        found = await self._store.read_in_thread(read)
        if not found:
            raise errors.NotFound(f"object {request.id}: not found")
        return ExplainResponse(explanations=[_explanation(each) for each in found])

    @rpc.unary(mutates=True)
    async def Collect(self, request: CollectRequest, call: rpc.Call) -> CollectResponse:
        if self._collect is None:
            raise errors.Unavailable("there is no collector: unavailable")
        done = cast(Collection, await self._collect())
        return CollectResponse(removed=[_object(node) for node in done.removed], pause_seconds=done.pause)


def _namespace(call: rpc.Call) -> str:
    """Empty for all of them: unlike elsewhere a namespace may be left out here."""
    return call.namespace if call.header(GRPC_HEADER) else ""


def _sized(connection: sqlite3.Connection, garbage: list[Node], namespace: str) -> list[tuple[Node, int]]:
    """With the bytes that go when the row goes; snapshots' are measured elsewhere."""
    doomed: dict[str, int] = {}
    for node in garbage:
        if node.kind == "content":
            doomed[node.id] = doomed.get(node.id, 0) + 1
    sized = []
    for node in garbage:
        size = 0
        if node.kind == "content":
            size, rows = connection.execute(
                "SELECT max(size), count(*) FROM blobs WHERE digest = ?", (node.id,)
            ).fetchone()
            # Told once, though several namespaces may lose it.
            size = size if doomed.get(node.id) == rows else 0
            doomed[node.id] = 0 if size else doomed[node.id]
        if namespace in ("", node.namespace):
            sized.append((node, size))
    return sized


def _object(node: Node) -> Object:
    return Object(namespace=node.namespace, kind=node.kind, id=node.id)


def _explanation(found: explain.Explanation) -> Explanation:
    return Explanation(
        object=_object(found.node),
        kept=bool(found.chain),
        chain=[Link(object=_object(link.node), why=link.why) for link in found.chain],
        notes=found.notes,
    )
