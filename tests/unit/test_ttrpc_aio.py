"""The asyncio ttrpc client and server, against each other and against raw frames."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from longshore.api.errors import DeadlineExceeded, Error, InvalidArgument, NotFound, Unimplemented
from longshore.api.runtime.task.v3.shim_pb2 import KillRequest, StateRequest, StateResponse
from longshore.api.ttrpc.request_pb2 import Request, Response
from longshore.ttrpc import aio, frames

SERVICE = "containerd.task.v3.Task"


class Shim:
    """A service whose answers tests steer."""

    def __init__(self) -> None:
        self.metadata: Mapping[str, Sequence[str]] = {}
        self.gate = asyncio.Event()

    async def state(self, request: StateRequest, metadata: Mapping[str, Sequence[str]]) -> StateResponse:
        self.metadata = metadata
        if request.id == "slow":
            await self.gate.wait()
        return StateResponse(id=request.id, pid=7)

    async def kill(self, request: KillRequest, metadata: Mapping[str, Sequence[str]]) -> Empty:
        if request.id == "broken":
            raise RuntimeError("out of order")
        raise NotFound(f"process {request.id}: not found")


@pytest.fixture
async def shim() -> Shim:
    return Shim()


@pytest.fixture
async def path(tmp_path: Path, shim: Shim) -> AsyncIterator[str]:
    path = str(tmp_path / "s")
    server = aio.Server(
        {SERVICE: {"State": aio.Method(StateRequest, shim.state), "Kill": aio.Method(KillRequest, shim.kill)}}
    )
    await server.start(path)
    yield path
    await server.stop()


@pytest.fixture
async def client(path: str) -> AsyncIterator[aio.Client]:
    client = await aio.Client.connect(f"unix://{path}", timeout=60)
    yield client
    client.close()


async def state(client: aio.Client, id: str, timeout: float | None = None) -> StateResponse:
    return await client.call(SERVICE, "State", StateRequest(id=id), StateResponse, timeout=timeout)


async def test_call_and_metadata(client: aio.Client, shim: Shim) -> None:
    answer = await client.call(
        SERVICE,
        "State",
        StateRequest(id="a"),
        StateResponse,
        metadata={"containerd-namespace-ttrpc": ["one", "two"]},
    )
    assert (answer.id, answer.pid) == ("a", 7)
    assert shim.metadata == {"containerd-namespace-ttrpc": ["one", "two"]}


async def test_answers_may_overtake_each_other(client: aio.Client, shim: Shim) -> None:
    slow = asyncio.create_task(state(client, "slow"))
    assert (await state(client, "quick")).id == "quick"
    assert not slow.done()
    shim.gate.set()
    assert (await slow).id == "slow"


async def test_many_calls_at_once(client: aio.Client) -> None:
    answers = await asyncio.gather(*(state(client, f"c{number}") for number in range(200)))
    assert [answer.id for answer in answers] == [f"c{number}" for number in range(200)]


async def test_errors_keep_class_and_words(client: aio.Client) -> None:
    with pytest.raises(NotFound, match=r"^process x: not found$"):
        await client.call(SERVICE, "Kill", KillRequest(id="x"), Empty)
    with pytest.raises(Error, match="out of order") as unknown:
        await client.call(SERVICE, "Kill", KillRequest(id="broken"), Empty)
    assert unknown.value.code == 2


async def test_unknown_service_and_method(client: aio.Client) -> None:
    with pytest.raises(Unimplemented):
        await client.call("no.Such", "State", StateRequest(), StateResponse)
    with pytest.raises(Unimplemented):
        await client.call(SERVICE, "Nothing", StateRequest(), StateResponse)


async def test_timeout_ends_one_call_only(client: aio.Client, shim: Shim) -> None:
    with pytest.raises(DeadlineExceeded):
        await state(client, "slow", timeout=0.02)
    shim.gate.set()
    assert (await state(client, "after")).id == "after"


async def test_closing_fails_calls_in_flight(client: aio.Client) -> None:
    waiting = asyncio.create_task(state(client, "slow"))
    await state(client, "first")  # the server has both by now
    client.close()
    with pytest.raises(aio.Closed, match="ttrpc: closed"):
        await waiting
    await asyncio.wait_for(client.closed, 60)
    with pytest.raises(aio.Closed):
        await state(client, "late")


async def test_stopped_server_is_noticed(tmp_path: Path, shim: Shim) -> None:
    server = aio.Server({SERVICE: {"State": aio.Method(StateRequest, shim.state)}})
    await server.start(str(tmp_path / "s"))
    client = await aio.Client.connect(f"unix://{tmp_path}/s", timeout=60)
    waiting = asyncio.create_task(state(client, "slow"))
    await state(client, "first")
    await server.stop()
    with pytest.raises(aio.Closed):
        await waiting
    await asyncio.wait_for(client.closed, 60)


async def test_socket_mode_and_stale_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in range(2):
        server = aio.Server({})
        await server.start(str(path))
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        await server.stop()


async def test_raw_frames(path: str) -> None:
    """Even and re-used stream ids are refused on their stream, oversized requests skipped."""
    reader, writer = await asyncio.open_unix_connection(path)
    request = Request(
        service=SERVICE, method="State", payload=StateRequest(id="raw").SerializeToString()
    ).SerializeToString()
    writer.write(frames.encode(frames.Frame(3, frames.REQUEST, 0, request)))
    writer.write(frames.encode(frames.Frame(4, frames.REQUEST, 0, request)))
    writer.write(frames.encode(frames.Frame(3, frames.REQUEST, 0, request)))
    oversize = frames.MAX_DATA + 1
    writer.write(
        oversize.to_bytes(4, "big") + (5).to_bytes(4, "big") + bytes([frames.REQUEST, 0]) + bytes(oversize)
    )
    decoder = frames.Decoder()
    answers: list[frames.Frame] = []
    while len(answers) < 4:
        answers += decoder.feed(await asyncio.wait_for(reader.read(65536), 60))
    writer.close()
    results = []
    for frame in answers:
        assert frame.kind == frames.RESPONSE
        results.append((frame.stream, Response.FromString(frame.data)))
    assert sorted((stream, response.status.code) for stream, response in results) == [
        (3, 0),
        (3, InvalidArgument.code),
        (4, InvalidArgument.code),
        (5, 8),
    ]


@pytest.mark.parametrize(
    ("address", "path"),
    [("unix:///run/s", "/run/s"), ("/containerd-shim/x.sock", "\0/containerd-shim/x.sock")],
)
def test_addresses(address: str, path: str) -> None:
    assert aio.socket_path(address) == path


def test_machine_addresses_are_refused() -> None:
    with pytest.raises(Unimplemented, match="vsock"):
        aio.socket_path("vsock://3:1024")


async def test_connecting_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await aio.Client.connect(f"unix://{tmp_path}/none", timeout=1)
