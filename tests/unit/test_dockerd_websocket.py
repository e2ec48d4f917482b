"""Websockets: frames by themselves, and aiohttp's client at a door of ours."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.api.errors import InvalidArgument
from longshore.dockerd import websocket
from longshore.dockerd.config import Config
from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Call, Route
from longshore.dockerd.listeners import listening
from longshore.dockerd.server import Server
from longshore.dockerd.websocket import BINARY, CLOSE, PING, TEXT, Frame, Frames, Violation
from support.folders import short_folder


def masked(opcode: int, data: bytes, *, last: bool = True) -> bytes:
    key = b"\1\2\3\4"
    first = (0x80 if last else 0) | opcode
    if len(data) < 126:
        head = bytes((first, 0x80 | len(data)))
    elif len(data) < 1 << 16:
        head = struct.pack(">BBH", first, 0x80 | 126, len(data))
    else:
        head = struct.pack(">BBQ", first, 0x80 | 127, len(data))
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


@given(st.lists(st.binary(max_size=400), max_size=5), st.integers(1, 50))
def test_frames_in_any_pieces(messages: list[bytes], step: int) -> None:
    sent = b"".join(masked(BINARY, message) for message in messages)
    frames, got = Frames(), []
    for at in range(0, len(sent), step):
        got += frames.feed(sent[at : at + step])
    assert got == [Frame(BINARY, message) for message in messages]


def test_long_frames() -> None:
    for size in (0, 125, 126, 65535, 65536):
        assert Frames().feed(masked(TEXT, b"x" * size)) == [Frame(TEXT, b"x" * size)]
        assert websocket.encoded(BINARY, b"x" * size).endswith(b"x" * size)


@pytest.mark.parametrize(
    "sent",
    (
        websocket.encoded(BINARY, b"not masked"),
        b"\xf2\x80\0\0\0\0",  # reserved bits
        b"\x83\x80\0\0\0\0",  # an unknown opcode
        masked(PING, b"x", last=False),
        masked(CLOSE, b"x" * 126),
        b"\x82\xff" + struct.pack(">Q", 1 << 40),
    ),
)
def test_violations(sent: bytes) -> None:
    with pytest.raises(Violation):
        Frames().feed(sent)


@given(st.binary(max_size=60))
def test_nonsense_is_a_violation_at_worst(data: bytes) -> None:
    try:
        Frames().feed(data)
    except Violation:
        pass


def test_handshakes() -> None:
    right = {
        "upgrade": "WebSocket",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
    }
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in websocket.handshake(right)
    for missing in right:
        with pytest.raises(InvalidArgument):
            websocket.handshake({name: value for name, value in right.items() if name != missing})


async def shout(engine: Engine, call: Call) -> None:
    connection = await call.websocket()
    while data := await connection.read():
        await connection.write(data.upper())
    await connection.write(b"end")


async def test_a_client_that_is_not_ours() -> None:
    with short_folder() as folder, listening(Config(hosts=[f"unix://{folder}/s"], group="0"), {}) as sockets:
        server = Server(cast(Engine, None), [Route("GET", "/shout", shout, hijacks=True)])
        accepting = await asyncio.get_running_loop().create_server(server.protocol, sock=sockets[0].socket)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{folder}/s")) as session:
            for path, sends, gets in (
                ("http://x/shout", "send_bytes", aiohttp.WSMsgType.BINARY),
                ("http://x/v1.24/shout", "send_bytes", aiohttp.WSMsgType.TEXT),
            ):
                async with session.ws_connect(path) as client:
                    send: Any = getattr(client, sends)
                    await send(b"abc")
                    message = await client.receive(60)
                    assert message.type == gets
                    assert message.data in (b"ABC", "ABC")
                    await client.ping(b"?")
                    data = os.urandom(50000).hex().encode()
                    await send(data)
                    message = await client.receive(60)
                    assert len(message.data) == 100000
            answer = await session.get("http://x/shout")
            assert answer.status == 400
        accepting.close()
        await server.close()
