"""The sandbox Store service: records of what a sandbox (a pod, a virtual machine) should be. No events.

A record is stored as the bytes of its message. Labels have no limit here,
unlike everywhere else; containerd has none either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from longshore.api import errors
from longshore.api.namespaces import validate_identifier
from longshore.api.services.sandbox.v1.sandbox_pb2 import (
    StoreCreateRequest,
    StoreCreateResponse,
    StoreDeleteRequest,
    StoreDeleteResponse,
    StoreGetRequest,
    StoreGetResponse,
    StoreListRequest,
    StoreListResponse,
    StoreUpdateRequest,
    StoreUpdateResponse,
)
from longshore.api.services.sandbox.v1.sandbox_pb2_grpc import StoreServicer
from longshore.api.types.sandbox_pb2 import Sandbox
from longshore.containerd import filters as filtering
from longshore.containerd import rpc
from longshore.containerd.gc import edges, references
from longshore.containerd.metadata import labels as labelling
from longshore.containerd.metadata import records
from longshore.containerd.metadata.store import Store, Transaction
from longshore.containerd.times import timestamp

_RECORD: Final = "SELECT record FROM sandboxes WHERE namespace = ? AND id = ?"


class SandboxStoreService(StoreServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    @rpc.unary(mutates=True)
    async def Create(self, request: StoreCreateRequest, call: rpc.Call) -> StoreCreateResponse:
        namespace, sandbox = call.namespace, request.sandbox
        validate_identifier(sandbox.sandbox_id)
        labelling.drop_empty(sandbox.labels)
        sandbox.created_at.CopyFrom(timestamp(time.time_ns()))
        sandbox.updated_at.CopyFrom(sandbox.created_at)

        def create(transaction: Transaction) -> None:
            transaction.ensure_namespace(namespace)
            if transaction.one(_RECORD, (namespace, sandbox.sandbox_id)) is not None:
                raise errors.AlreadyExists(f'sandbox "{sandbox.sandbox_id}": already exists')
            _write(transaction, namespace, sandbox)

        await self._store.write(create)
        return StoreCreateResponse(sandbox=sandbox)

    @rpc.unary(mutates=True)
    async def Update(self, request: StoreUpdateRequest, call: rpc.Call) -> StoreUpdateResponse:
        namespace, given, paths = call.namespace, request.sandbox, list(request.fields)

        def update(transaction: Transaction) -> Sandbox:
            row = transaction.one(_RECORD, (namespace, given.sandbox_id))
            if row is None:
                raise not_found(given.sandbox_id)
            sandbox = Sandbox.FromString(row[0])
            _apply(sandbox, given, paths)
            labelling.drop_empty(sandbox.labels)
            sandbox.updated_at.CopyFrom(timestamp(time.time_ns()))
            _write(transaction, namespace, sandbox)
            return sandbox

        return StoreUpdateResponse(sandbox=await self._store.write(update))

    @rpc.unary(mutates=True)
    async def Delete(self, request: StoreDeleteRequest, call: rpc.Call) -> StoreDeleteResponse:
        namespace, id = call.namespace, request.sandbox_id

        def delete(transaction: Transaction) -> None:
            if not transaction.execute(
                "DELETE FROM sandboxes WHERE namespace = ? AND id = ?", (namespace, id)
            ):
                raise not_found(id)
            edges.forget(transaction, namespace, references.SANDBOXES, id)

        await self._store.write(delete, urgent=True)
        return StoreDeleteResponse()

    @rpc.unary()
    async def Get(self, request: StoreGetRequest, call: rpc.Call) -> StoreGetResponse:
        return StoreGetResponse(sandbox=load(self._store, call.namespace, request.sandbox_id))

    @rpc.unary()
    async def List(self, request: StoreListRequest, call: rpc.Call) -> StoreListResponse:
        return rpc.encoded(
            StoreListResponse,
            await records.answer(self._store, "sandboxes", "id", call.namespace, request.filters, _seen),
        )


def load(store: Store, namespace: str, id: str) -> Sandbox:
    """A record. Raises NotFound."""
    row = store.read(lambda connection: connection.execute(_RECORD, (namespace, id)).fetchone())
    if row is None:
        raise not_found(id)
    return Sandbox.FromString(row[0])


def not_found(id: str) -> errors.NotFound:
    return errors.NotFound(f'sandbox "{id}": not found')


def _seen(record: bytes) -> filtering.Lookup:
    return lookup(Sandbox.FromString(record))


def lookup(sandbox: Sandbox) -> filtering.Lookup:
    """What a filter sees of a sandbox."""

    def find(path: Sequence[str]) -> str | None:
        match path:
            case ["id", *_]:
                return sandbox.sandbox_id or None
            case ["labels", *key]:
                return labelling.lookup(sandbox.labels, key)
            case _:
                return None

    return find


def _write(transaction: Transaction, namespace: str, sandbox: Sandbox) -> None:
    transaction.execute(
        "INSERT OR REPLACE INTO sandboxes (namespace, id, record) VALUES (?, ?, ?)",
        (namespace, sandbox.sandbox_id, sandbox.SerializeToString()),
    )
    edges.record(transaction, namespace, references.of_sandbox(sandbox.sandbox_id, sandbox.labels))


def _apply(sandbox: Sandbox, given: Sandbox, paths: Sequence[str]) -> None:
    """Take from `given` what is named; nothing named: all that may change, if the runtime's name is as before."""
    if not paths and given.runtime.name != sandbox.runtime.name:
        raise errors.InvalidArgument("sandbox.Runtime.Name field is immutable: invalid argument")
    for path in paths or _FIELDS:
        field, _, key = path.partition(".")
        if key and field == "labels":
            labelling.copy_one(sandbox.labels, given.labels, key)
        elif key and field == "extensions":
            if key in given.extensions:
                sandbox.extensions[key].CopyFrom(given.extensions[key])
            else:
                sandbox.extensions.pop(key, None)
        elif path in _FIELDS:
            _FIELDS[path](sandbox, given)
        else:
            raise errors.InvalidArgument(
                f'cannot update "{path}" field on sandbox "{sandbox.sandbox_id}": invalid argument'
            )


def _replace_extensions(sandbox: Sandbox, given: Sandbox) -> None:
    sandbox.ClearField("extensions")
    for key, value in given.extensions.items():
        sandbox.extensions[key].CopyFrom(value)


def _replace_runtime(sandbox: Sandbox, given: Sandbox) -> None:
    sandbox.ClearField("runtime")
    if given.HasField("runtime"):
        sandbox.runtime.CopyFrom(given.runtime)


def _replace_spec(sandbox: Sandbox, given: Sandbox) -> None:
    sandbox.ClearField("spec")
    if given.HasField("spec"):
        sandbox.spec.CopyFrom(given.spec)


_FIELDS: Final[dict[str, Callable[[Sandbox, Sandbox], None]]] = {
    "labels": lambda sandbox, given: labelling.replace(sandbox.labels, given.labels),
    "extensions": _replace_extensions,
    "runtime": _replace_runtime,
    "spec": _replace_spec,
}
