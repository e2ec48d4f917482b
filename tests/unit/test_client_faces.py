"""The blocking face has what the core has; calls, headers and errors cross as they should, on a small server."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from longshore.api.errors import FailedPrecondition, NotFound, Unavailable
from longshore.api.services.containers.v1 import containers_pb2 as pb
from longshore.api.services.containers.v1.containers_pb2_grpc import (
    ContainersServicer,
    add_ContainersServicer_to_server,
)
from longshore.client import client as core
from longshore.client import (
    containers,
    content,
    diff,
    events,
    images,
    introspection,
    leases,
    namespaces,
    snapshots,
    sync,
    tasks,
)
from longshore.client import io as streams
from longshore.client.blocking import Portal

FACES = [
    (core.AsyncClient, sync.Client),
    (containers.Container, sync.Container),
    (containers.Containers, sync.Containers),
    (content.Content, sync.Content),
    (content.Writer, sync.ContentWriter),
    (diff.Diffs, sync.Diffs),
    (events.Events, sync.Events),
    (events.Subscription, sync.Subscription),
    (images.Image, sync.Image),
    (images.Images, sync.Images),
    (introspection.Introspection, sync.Introspection),
    (leases.Leases, sync.Leases),
    (namespaces.Namespaces, sync.Namespaces),
    (snapshots.Snapshots, sync.Snapshots),
    (streams.Reader, sync.Reader),
    (streams.Writer, sync.Writer),
    (tasks.Process, sync.Process),
    (tasks.Task, sync.Task),
    (tasks.Tasks, sync.Tasks),
]

# What makes no sense, or has another form, on the blocking side.
LEFT_OUT = {
    "AsyncClient": {"connection", "fifo_dir"},
    "Container": {"user"},
    "Containers": {"walk"},
    "Image": {"document", "blobs", "target"},
    "Process": {"streams"},
    "Reader": {"close", "fileno"},
    "Snapshots": {"snapshotter"},
    "Task": {"streams"},
    "Tasks": {"client"},
    "Writer": {"abandon", "closed", "ref"},
}


@pytest.mark.parametrize(
    ("inner", "face"), FACES, ids=lambda kind: kind.__name__ if inspect.isclass(kind) else ""
)
def test_the_faces_have_the_same_names(inner: type, face: type) -> None:
    names = {name for name in dir(inner) if not name.startswith("_")} - LEFT_OUT.get(inner.__name__, set())
    assert names - set(dir(face)) == set()


class Store(ContainersServicer):
    """Knows one container, and remembers the headers of the last call."""

    def __init__(self) -> None:
        self.headers: dict[str, Any] = {}
        self.begun, self.cancelled = threading.Event(), threading.Event()

    async def Get(self, request: Any, context: Any) -> Any:
        self.headers = dict(context.invocation_metadata())
        if request.id == "known":
            return pb.GetContainerResponse(container=pb.Container(id="known"))
        if request.id == "slow":
            self.begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        await context.abort(grpc.StatusCode.NOT_FOUND, f'container "{request.id}": not found')

    async def ListStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(3):
            yield pb.ListContainerMessage(container=pb.Container(id=f"c{number}"))

    async def Delete(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "x" * 20_000)

    async def List(self, request: Any, context: Any) -> Any: ...
    async def Create(self, request: Any, context: Any) -> Any: ...
    async def Update(self, request: Any, context: Any) -> Any: ...


@pytest.fixture
def server(short_tmp: Path) -> Iterator[tuple[str, Store]]:
    portal, store, address = Portal(), Store(), str(short_tmp / "c.sock")

    async def start() -> Any:
        options = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
        server = grpc.aio.server(options=options)
        add_ContainersServicer_to_server(store, server)
        server.add_insecure_port(f"unix:{address}")
        await server.start()
        return server

    running = portal.run(start())
    yield address, store
    portal.run(running.stop(None))
    portal.close()


def test_headers_and_derived_clients(server: tuple[str, Store]) -> None:
    address, store = server
    with sync.Client(f"unix://{address}", "blue") as client:
        assert client.containers.get("known").id == "known"
        assert store.headers["containerd-namespace"] == "blue"
        assert "containerd-lease" not in store.headers
        client.with_lease("l1").in_namespace("red").containers.get("known")
        assert (store.headers["containerd-namespace"], store.headers["containerd-lease"]) == ("red", "l1")


def test_errors_are_of_the_closed_set_however_long(server: tuple[str, Store]) -> None:
    address, _ = server
    with sync.Client(address) as client:
        with pytest.raises(NotFound, match='container "nope": not found'):
            client.containers.get("nope")
        with pytest.raises(FailedPrecondition) as caught:
            client._portal.run(
                client._inner.connection.call(
                    client._inner.containers.stub.Delete, pb.DeleteContainerRequest()
                )
            )
        assert len(caught.value.message) == 20_000
        assert isinstance(Empty(), Empty)


def test_streams(server: tuple[str, Store]) -> None:
    address, _ = server
    with sync.Client(address) as client:
        assert [container.id for container in client.containers.list()] == ["c0", "c1", "c2"]


async def test_the_core_on_our_own_loop(server: tuple[str, Store]) -> None:
    address, _ = server
    async with core.AsyncClient(address) as client:
        assert [container.id async for container in client.containers.walk()] == ["c0", "c1", "c2"]


async def test_cancelling_a_call_reaches_the_server(server: tuple[str, Store]) -> None:
    address, store = server
    async with core.AsyncClient(address) as client:
        asking = asyncio.ensure_future(client.containers.get("slow"))
        assert await asyncio.to_thread(store.begun.wait, 60)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await asyncio.to_thread(store.cancelled.wait, 60)


def test_nobody_listens(short_tmp: Path) -> None:
    with sync.Client(str(short_tmp / "none.sock")) as client, pytest.raises(Unavailable):
        client.containers.get("known")


def test_signatures_are_carried_over() -> None:
    """The docstrings too: an editor shows them."""
    assert vars(sync.Containers)["get"].__doc__ == containers.Containers.get.__doc__
