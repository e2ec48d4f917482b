"""The door of BuildKit, shut: grpcio's client hears the message."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from longshore.api.services.version.v1.version_pb2_grpc import VersionStub
from longshore.dockerd.refusal import PREFACE, Refusal
from longshore.dockerd.routes.session import MESSAGE
from support.folders import short_folder


async def test_every_call_is_refused_in_words() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refusal = Refusal(MESSAGE)
        while data := await reader.read(65536):
            writer.write(refusal.feed(data))
        writer.close()

    with short_folder() as folder:
        async with (
            await asyncio.start_unix_server(serve, folder / "s"),
            grpc.aio.insecure_channel(f"unix:{folder}/s") as channel,
        ):
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await VersionStub(channel).Version(Empty(), timeout=60)
                assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
                assert refused.value.details() == MESSAGE


def test_in_any_pieces() -> None:
    sent = PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\6\0\0\0\0\0" + b"12345678" + b"\0\0\1\1\4\0\0\0\1\x82"
    whole, pieces = Refusal("no"), Refusal("no")
    assert b"".join(pieces.feed(sent[at : at + 1]) for at in range(len(sent))) == whole.feed(sent)


@pytest.mark.parametrize("sent", (b"GET / HTTP/1.1\r\n" * 3, PREFACE + b"\xff\xff\xff\0\0\0\0\0\0"))
def test_no_http2(sent: bytes) -> None:
    with pytest.raises(ValueError):
        Refusal("no").feed(sent)
