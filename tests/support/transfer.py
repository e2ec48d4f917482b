"""A client of Streaming and Transfer, as small as one can be: what the SDK lacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any as Anything

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from longshore.api import errors
from longshore.api.services.streaming.v1.streaming_pb2 import StreamInit
from longshore.api.services.streaming.v1.streaming_pb2_grpc import StreamingStub
from longshore.api.services.transfer.v1.transfer_pb2 import TransferOptions, TransferRequest
from longshore.api.services.transfer.v1.transfer_pb2_grpc import TransferStub
from longshore.api.types.transfer.progress_pb2 import Progress
from longshore.api.types.transfer.registry_pb2 import AuthRequest, AuthResponse
from longshore.api.types.transfer.streaming_pb2 import Data, WindowUpdate
from longshore.api.typeurls import pack, type_name
from support.remote import send


class TransferClient:
    """One namespace on a daemon, through an open channel."""

    def __init__(self, channel: grpc.aio.Channel, namespace: str, lease: str = "") -> None:
        self._streaming, self._transfer = StreamingStub(channel), TransferStub(channel)
        self.metadata = [("containerd-namespace", namespace)]
        if lease:
            self.metadata.append(("containerd-lease", lease))
        self._count = 0

    async def open(self) -> ClientStream:
        """A new stream, acknowledged."""
        self._count += 1
        stream = ClientStream(self._streaming.Stream(metadata=self.metadata), f"s{id(self):x}-{self._count}")
        await stream.begin()
        return stream

    async def transfer(self, source: Message, target: Message, *, progress: str = "") -> None:
        """Raises `longshore.api.errors`."""
        request = TransferRequest(
            source=pack(source), destination=pack(target), options=TransferOptions(progress_stream=progress)
        )
        try:
            await self._transfer.Transfer(request, metadata=self.metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            raise errors.from_code(error.code().value[0], error.details() or "") from None

    async def watched(self, source: Message, target: Message) -> list[Progress]:
        """Transfer, and the news that came of it."""
        stream = await self.open()
        news = asyncio.create_task(stream.all(Progress))
        try:
            await self.transfer(source, target, progress=stream.id)
        except BaseException:
            news.cancel()
            stream.cancel()
            raise
        return await asyncio.wait_for(news, 60)


class ClientStream:
    def __init__(self, call: Anything, id: str) -> None:
        self._call, self.id = call, id

    async def begin(self) -> None:
        await self.send(StreamInit(id=self.id))
        acknowledgement = await self.receive()
        assert acknowledgement is not None and type_name(acknowledgement) == "google.protobuf.Empty"

    async def send(self, message: Message) -> None:
        """Send, if the server still listens; what it said last is what `receive` answers."""
        await send(self._call, pack(message))

    async def receive(self) -> Any | None:
        message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        self._call.cancel()

    async def messages(self) -> AsyncIterator[Any]:
        while (message := await self.receive()) is not None:
            yield message

    async def all(self, kind: type[Anything]) -> list[Anything]:
        """Everything until the end, each of which must be a `kind`."""
        found = []
        async for message in self.messages():
            assert type_name(message) == kind.DESCRIPTOR.full_name
            found.append(kind.FromString(message.value))
        return found

    async def upload(self, data: bytes) -> int:
        """Send as much as is granted; how often we had to wait for credit."""
        credit = waits = 0
        while data:
            while credit <= 0:
                message = await self.receive()
                if message is None:
                    return waits
                credit += WindowUpdate.FromString(message.value).update
                waits += 1
            size = min(credit, 32 << 10)
            await self.send(Data(data=data[:size]))
            data, credit = data[size:], credit - size
        await self._call.done_writing()
        return waits

    async def download(self) -> bytes:
        """Grant credit, and take until the end."""
        parts: list[bytes] = []
        window = 0
        while True:
            if window < 64 << 10:
                await self.send(WindowUpdate(update=64 << 10))
                window += 64 << 10
            message = await self.receive()
            if message is None:
                return b"".join(parts)
            parts.append(Data.FromString(message.value).data)
            assert len(parts[-1]) <= 32 << 10
            window -= len(parts[-1])
            assert window >= 0

    async def answer(self, how: Callable[[AuthRequest], AuthResponse]) -> Sequence[AuthRequest]:
        """Answer questions about credentials; those that were asked."""
        asked = []
        async for message in self.messages():
            asked.append(AuthRequest.FromString(message.value))
            await self.send(how(asked[-1]))
        return asked
