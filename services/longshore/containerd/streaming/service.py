"""The Streaming service: a client names a stream, gets an acknowledgement, and uses the name in other calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from longshore.api import errors
from longshore.api.namespaces import GRPC_HEADER
from longshore.api.services.streaming.v1.streaming_pb2 import StreamInit
from longshore.api.services.streaming.v1.streaming_pb2_grpc import StreamingServicer
from longshore.api.typeurls import pack, type_name
from longshore.containerd import rpc
from longshore.containerd.streaming.streams import Streams


class StreamingService(StreamingServicer):
    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    @rpc.bidi_stream
    async def Stream(self, requests: AsyncIterator[Any], call: rpc.Call) -> AsyncGenerator[Any, None]:
        namespace = call.namespace if call.header(GRPC_HEADER) else ""
        first = await anext(aiter(requests), None)
        if first is None:
            return
        stream = self._streams.add(namespace, _init(first).id, call.lease)
        carrying = asyncio.get_running_loop().create_task(stream.carry(requests))
        try:
            yield pack(Empty())
            async for message in stream.outgoing():
                yield message
        finally:
            carrying.cancel()
            stream.abandon()
            self._streams.remove(namespace, stream.id)


def _init(first: Any) -> StreamInit:
    if type_name(first) != StreamInit.DESCRIPTOR.full_name:
        raise errors.InvalidArgument(
            f"the first message of a stream must be a StreamInit, not {first.type_url!r}: invalid argument"
        )
    try:
        return StreamInit.FromString(first.value)
    except DecodeError:
        raise errors.InvalidArgument("malformed StreamInit: invalid argument") from None
