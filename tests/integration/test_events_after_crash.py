"""A client that only listens loses no task event to a crash of the daemon.

The one event that was on its way to the client when the daemon was killed may
come again, for nobody can know whether it arrived; no other comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.api.services.events.v1.events_pb2 import PublishRequest, SubscribeRequest
from longshore.api.services.events.v1.events_pb2_grpc import EventsStub
from support import soak
from support.daemon import Longshore

HEADERS = (("containerd-namespace", "test"),)
FILTERS = ["namespace==test,topic~=|^/tasks/|"]
ROUNDS = soak.times(3, 100)


def _channel(daemon: Longshore) -> grpc.aio.Channel:
    # A channel of its own per life of the daemon: no back-off from the last one's end.
    return grpc.aio.insecure_channel(
        f"unix:{daemon.address}", options=[("grpc.use_local_subchannel_pool", 1)]
    )


async def _publish_for_ever(stub: Any, answered: list[int], numbers: Any) -> None:
    """Publish numbers until the daemon is gone; note those that were answered."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        for number in numbers:
            event = AnyMessage(type_url="number", value=str(number).encode())
            await stub.Publish(PublishRequest(topic="/tasks/number", event=event), metadata=HEADERS)
            answered.append(number)


async def _listen(stream: Any, heard: list[int]) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for envelope in stream:
            heard.append(int(envelope.event.value))


async def _life(daemon: Longshore, base: int, heard: list[int]) -> list[int]:
    """One life of the daemon: subscribe, publish from several sides, be killed. The numbers that were answered."""
    answered: list[int] = []
    async with _channel(daemon) as channel:
        stub: Any = EventsStub(channel)
        stream = stub.Subscribe(SubscribeRequest(filters=FILTERS))
        await stream.initial_metadata()
        listener = asyncio.create_task(_listen(stream, heard))
        sides = [
            asyncio.create_task(_publish_for_ever(stub, answered, range(base + side, base + 1_000_000, 4)))
            for side in range(4)
        ]
        while len(answered) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(random.random() * 0.3)
        await asyncio.to_thread(daemon.kill9)
        await asyncio.gather(listener, *sides)
    return answered


async def test_every_answered_event_is_heard_in_order_across_kills() -> None:
    with Longshore() as daemon:
        heard: list[int] = []
        answered: list[int] = []
        for turn in range(ROUNDS):
            answered += await _life(daemon, turn * 1_000_000, heard)
            await asyncio.to_thread(daemon.start)
        async with _channel(daemon) as channel:
            stub: Any = EventsStub(channel)
            stream = stub.Subscribe(SubscribeRequest(filters=FILTERS))
            await stream.initial_metadata()
            await _publish_for_ever(stub, answered, [-1])
            async for envelope in stream:
                heard.append(int(envelope.event.value))
                if heard[-1] == -1:
                    break
    assert set(answered) <= set(heard)
    assert len(heard) - len(set(heard)) <= ROUNDS
    for side in range(4):
        numbers = [number for number in heard if number >= 0 and number % 4 == side]
        assert numbers == sorted(numbers)


async def test_a_replay_by_sequence_continues_where_a_client_was() -> None:
    with Longshore() as daemon:
        async with _channel(daemon) as channel:
            stub: Any = EventsStub(channel)
            stream = stub.Subscribe(SubscribeRequest())
            head = dict(await stream.initial_metadata())["longshore-sequence"]
            stream.cancel()
            answered: list[int] = []
            await _publish_for_ever(stub, answered, range(5))
        await asyncio.to_thread(daemon.kill9)
        await asyncio.to_thread(daemon.start)
        async with _channel(daemon) as channel:
            stub = EventsStub(channel)
            stream = stub.Subscribe(SubscribeRequest(), metadata=(("longshore-since-sequence", head),))
            assert [int((await stream.read()).event.value) for _ in range(5)] == answered
            stream.cancel()


async def test_bad_replay_headers_are_refused() -> None:
    with Longshore() as daemon:
        async with _channel(daemon) as channel:
            stub: Any = EventsStub(channel)
            for value in ("x", "-1", "9" * 30):
                stream = stub.Subscribe(SubscribeRequest(), metadata=(("longshore-since-time", value),))
                try:
                    await stream.read()
                    raise AssertionError("it was taken")
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
