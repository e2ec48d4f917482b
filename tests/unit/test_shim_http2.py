"""The hand-framed gRPC stream against `h2`, an independent implementation of HTTP/2."""

from __future__ import annotations

import struct

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.shim import http2
from longshore.shim.http2 import Closed, GrpcStream


class Server:
    """An h2 server holding one stream."""

    def __init__(self, **settings: int) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        codes = {getattr(h2.settings.SettingCodes, name.upper()): value for name, value in settings.items()}
        if codes:
            self.connection.update_settings(codes)
        self.headers: list[tuple[str, str]] = []
        self.data = bytearray()
        self.events: list[h2.events.Event] = []
        self.credit = True

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.RequestReceived):
                self.headers = [(_str(name), _str(value)) for name, value in event.headers]
                self.connection.send_headers(
                    event.stream_id, [(":status", "200"), ("content-type", "application/grpc")]
                )
            elif isinstance(event, h2.events.DataReceived):
                self.data += event.data
                if self.credit:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def messages(self) -> list[bytes]:
        found, data = [], bytes(self.data)
        while len(data) >= 5:
            (length,) = struct.unpack(">I", data[1:5])
            found.append(data[5 : 5 + length])
            data = data[5 + length :]
        return found


def _str(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode()


def exchange(stream: GrpcStream, server: Server) -> list[bytes]:
    """Pass bytes both ways until both are silent; what the client received."""
    received: list[bytes] = []
    while True:
        up = stream.take()
        if up:
            server.receive(up)
        down = server.connection.data_to_send()
        if down:
            received += stream.receive(down)
        if not up and not down:
            return received


def grpc(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def test_request_headers() -> None:
    stream, server = GrpcStream("/a.B/C"), Server()
    exchange(stream, server)
    assert dict(server.headers) == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/a.B/C",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        "user-agent": "longshore-shim",
    }


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 70000, 300000])
def test_messages_of_all_sizes_pass_the_windows(size: int) -> None:
    stream, server = GrpcStream("/a.B/C"), Server()
    sent = [bytes([n]) * size for n in range(3)]
    for message in sent:
        stream.send(message)
    exchange(stream, server)
    assert server.messages() == sent


def test_sending_stops_at_the_window_and_goes_on_with_credit() -> None:
    stream, server = GrpcStream("/a.B/C"), Server()
    server.credit = False
    stream.send(bytes(100000))
    exchange(stream, server)
    assert len(server.data) == http2.DEFAULT_WINDOW
    server.connection.acknowledge_received_data(len(server.data), 1)
    exchange(stream, server)
    assert len(server.data) == 100005


def test_a_smaller_initial_window_is_honoured() -> None:
    stream, server = GrpcStream("/a.B/C"), Server(initial_window_size=1000)
    exchange(stream, server)
    server.credit = False
    stream.send(bytes(5000))
    exchange(stream, server)
    assert len(server.data) == 1000


@given(st.lists(st.binary(max_size=200), max_size=6), st.integers(1, 30))
def test_answers_cut_anywhere(messages: list[bytes], step: int) -> None:
    stream, server = GrpcStream("/a.B/C"), Server()
    exchange(stream, server)
    for message in messages:
        server.connection.send_data(1, grpc(message))
    down = server.connection.data_to_send()
    received = [m for at in range(0, len(down), step) for m in stream.receive(down[at : at + step])]
    assert received == messages


def test_many_answers_are_credited() -> None:
    """More than one window of answers: without our WINDOW_UPDATEs h2 would refuse to send them."""
    stream, server = GrpcStream("/a.B/C"), Server()
    exchange(stream, server)
    count = 0
    for _ in range(40):
        server.connection.send_data(1, grpc(bytes(4000)))
        count += len(exchange(stream, server))
    assert count == 40


def test_padded_answer() -> None:
    stream, server = GrpcStream("/a.B/C"), Server()
    exchange(stream, server)
    server.connection.send_data(1, grpc(b"padded"), pad_length=9)
    assert exchange(stream, server) == [b"padded"]


def test_ping_is_answered() -> None:
    stream, server = GrpcStream("/a.B/C"), Server()
    exchange(stream, server)
    server.connection.ping(b"12345678")
    exchange(stream, server)
    assert any(
        isinstance(event, h2.events.PingAckReceived) and event.ping_data == b"12345678"
        for event in server.events
    )


def test_settings_are_acknowledged() -> None:
    stream, server = GrpcStream("/a.B/C"), Server()
    exchange(stream, server)
    assert any(isinstance(event, h2.events.SettingsAcknowledged) for event in server.events)


def end(server: Server) -> None:
    server.connection.send_headers(1, [("grpc-status", "12")], end_stream=True)


def reset(server: Server) -> None:
    server.connection.reset_stream(1, 8)


def go_away(server: Server) -> None:
    server.connection.close_connection(0, b"bye")


def finish_by_data(server: Server) -> None:
    server.connection.send_data(1, b"", end_stream=True)


@pytest.mark.parametrize("how", [end, reset, go_away, finish_by_data])
def test_every_end_is_told(how: object) -> None:
    stream, server = GrpcStream("/a.B/C"), Server()
    exchange(stream, server)
    assert callable(how)
    how(server)
    with pytest.raises(Closed):
        exchange(stream, server)


@pytest.mark.parametrize(
    "data",
    [
        http2.frame(http2.WINDOW_UPDATE, 0, 0, b"\0"),
        http2.frame(http2.SETTINGS, 0, 0, b"\0\1\2"),
        http2.frame(http2.RST_STREAM, 0, 1, b""),
        http2.frame(http2.GOAWAY, 0, 0, b"\0"),
        http2.frame(http2.DATA, http2.PADDED, 1, b"\x09abc"),
        http2.frame(http2.DATA, 0, 1, b"\1\0\0\0\0"),
        http2.frame(http2.PUSH_PROMISE, 0, 1, b""),
        b"\xff\xff\xff" + bytes(20),
    ],
)
def test_malformed_frames_close(data: bytes) -> None:
    stream = GrpcStream("/a.B/C")
    with pytest.raises(Closed):
        stream.receive(data)


def test_unknown_frames_are_ignored() -> None:
    assert GrpcStream("/a.B/C").receive(http2.frame(0x42, 0xFF, 7, b"whatever")) == []
