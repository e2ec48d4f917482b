"""Bytes over a stream keep to what was granted, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.any_pb2 import Any

from longshore.api import errors
from longshore.api.types.transfer.streaming_pb2 import Data, WindowUpdate
from longshore.api.typeurls import pack
from longshore.containerd.streaming.bytestream import LARGEST, WINDOW, ByteReader, ByteWriter
from longshore.containerd.streaming.streams import Stream, Streams


async def requests(*messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def test_a_reader_grants_a_window_before_and_as_it_reads() -> None:
    stream = Stream("s")
    chunks = [pack(Data(data=b"x" * LARGEST)) for _ in range(3)]
    await stream.carry(requests(*chunks))
    reader = ByteReader(stream)
    total = 0
    while data := await reader.read():
        total += len(data)
    assert total == 3 * LARGEST
    stream.close()
    granted = [WindowUpdate.FromString(message.value).update async for message in stream.outgoing()]
    assert set(granted) == {WINDOW} and len(granted) == 3  # whenever less than a window is left


async def test_a_writer_sends_no_more_than_was_granted() -> None:
    stream = Stream("s")
    writing = asyncio.create_task(ByteWriter(stream).write(b"x" * 100_000))
    await stream.carry(requests(pack(WindowUpdate(update=1000)), pack(WindowUpdate(update=WINDOW))))
    with pytest.raises(errors.Unavailable):
        await writing
    stream.close()
    sizes = [len(Data.FromString(message.value).data) async for message in stream.outgoing()]
    assert sizes == [1000, LARGEST, LARGEST]


async def test_other_messages_are_refused() -> None:
    stream = Stream("s")
    await stream.carry(requests(pack(WindowUpdate(update=1))))
    with pytest.raises(errors.InvalidArgument, match="Data is expected"):
        await ByteReader(stream).read()


async def test_a_client_that_goes_ends_readers_and_stops_writers() -> None:
    stream = Stream("s")
    reading = asyncio.create_task(ByteReader(stream).read())
    await asyncio.sleep(0)
    stream.abandon()
    assert await reading == b""
    with pytest.raises(errors.Unavailable):
        stream.send(Data(data=b"x"))


def test_names_are_taken_once_a_namespace() -> None:
    streams = Streams()
    streams.add("a", "x")
    streams.add("b", "x")
    with pytest.raises(errors.AlreadyExists):
        streams.add("a", "x")
    streams.remove("a", "x")
    with pytest.raises(errors.NotFound):
        streams.get("a", "x")
