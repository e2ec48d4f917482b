"""The client's HTTP/2 against `h2`, an independent implementation: frames, windows, and what a peer may do wrong."""

from __future__ import annotations

import struct

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.client.wire import http2
from longshore.client.wire.http2 import Conversation, Stream

ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


class Server:
    """An h2 server that collects what it is sent, and answers when told to."""

    def __init__(self, **settings: int) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        codes = {getattr(h2.settings.SettingCodes, name.upper()): value for name, value in settings.items()}
        if codes:
            self.connection.update_settings(codes)
        self.headers: dict[int, dict[str, str]] = {}
        self.data: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.reset: dict[int, int] = {}
        self.events: list[h2.events.Event] = []
        self.credit = True

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.RequestReceived):
                self.headers[event.stream_id] = {str(name): str(value) for name, value in event.headers}
                self.data[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self.data[event.stream_id] += event.data
                if self.credit:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.append(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset[event.stream_id] = event.error_code

    def answer(self, number: int, *messages: bytes, trailers: list[tuple[str, str]] = OK) -> None:
        self.connection.send_headers(number, ANSWER)
        self.send(number, b"".join(map(grpc, messages)))
        self.connection.send_headers(number, trailers, end_stream=True)

    def send(self, number: int, data: bytes) -> None:
        """As far as the window goes, which must be far enough."""
        while data:
            size = min(len(data), self.connection.max_outbound_frame_size)
            self.connection.send_data(number, data[:size])
            data = data[size:]


def exchange(client: Conversation, server: Server) -> None:
    """Pass bytes both ways until both are silent."""
    while True:
        up = client.take()
        if up:
            server.receive(up)
        down = server.connection.data_to_send()
        if down:
            client.receive(down)
        if not up and not down:
            return


def grpc(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


@pytest.fixture
def client() -> Conversation:
    return Conversation()


def asked(client: Conversation, server: Server, message: bytes = b"question", **more: float) -> Stream:
    stream = client.open("/a.B/C", [("containerd-namespace", "é" * 100)], **more)
    client.send(stream, message, last=True)
    exchange(client, server)
    return stream


def test_a_call(client: Conversation) -> None:
    server = Server()
    stream = asked(client, server, timeout=1.5)
    assert client.greeted and server.ended == [1] and server.data == {1: grpc(b"question")}
    headers = server.headers[1]
    assert headers[":path"] == "/a.B/C" and headers[":method"] == "POST" and headers["te"] == "trailers"
    assert headers["containerd-namespace"] == "é" * 100 and headers["grpc-timeout"] == "1500m"
    server.answer(1, b"", b"answer")
    exchange(client, server)
    assert [client.pop(stream), client.pop(stream)] == [b"", b"answer"]
    assert stream.status == 0 and stream.headers == dict(ANSWER) and client.idle
    assert stream in client.changed() and client.changed() == []


@pytest.mark.parametrize(
    ("trailers", "status", "details"),
    [
        (
            [("grpc-status", "5"), ("grpc-message", "container %22x%22: not found")],
            5,
            'container "x": not found',
        ),
        ([("grpc-status", "2"), ("grpc-message", "h%C3%A9, 100%, %zz")], 2, "hé, 100%, %zz"),
        ([("grpc-status", "nonsense")], 2, "the answer has no status"),
        ([("other", "header")], 2, "the answer has no status"),
    ],
)
def test_statuses(client: Conversation, trailers: list[tuple[str, str]], status: int, details: str) -> None:
    server = Server()
    first, second = asked(client, server), asked(client, server)
    server.answer(1, trailers=trailers)
    server.connection.send_headers(3, [*ANSWER, *trailers], end_stream=True)  # trailers only
    exchange(client, server)
    assert (first.status, first.details) == (second.status, second.details) == (status, details)


@pytest.mark.parametrize(("http", "status"), [("404", 12), ("503", 14), ("418", 2)])
def test_an_answer_that_is_no_grpc(client: Conversation, http: str, status: int) -> None:
    server = Server()
    stream = asked(client, server)
    server.connection.send_headers(1, [(":status", http)])
    server.connection.send_data(1, b"", end_stream=True)
    exchange(client, server)
    assert stream.status == status and http in stream.details


def test_headers_in_many_frames_and_ones_that_come_before(client: Conversation) -> None:
    server = Server()
    stream = asked(client, server)
    server.connection.send_headers(1, [(":status", "103")])
    server.connection.send_headers(1, ANSWER)
    server.connection.send_headers(
        1, [("grpc-status", "2"), ("grpc-message", "long," * 4000)], end_stream=True
    )
    exchange(client, server)
    assert stream.headers == dict(ANSWER) and stream.details == "long," * 4000


def test_our_headers_in_many_frames(client: Conversation) -> None:
    server = Server(max_header_list_size=1 << 20)
    client.open("/a.B/C", [("long", "x" * 50000)])
    exchange(client, server)
    assert server.headers[1]["long"] == "x" * 50000


@pytest.mark.parametrize("window", [0, 1, 1000, 65535])
def test_no_more_than_the_windows_allow(client: Conversation, window: int) -> None:
    """h2 itself checks that we keep to them."""
    server = Server(initial_window_size=window)
    server.credit = False
    exchange(client, server)
    stream = asked(client, server, b"x" * 200_000)
    assert len(server.data[1]) == window and not server.ended
    server.credit = True
    server.connection.increment_flow_control_window(200_005 - window, 1)
    server.connection.increment_flow_control_window(200_005 - 65535)
    exchange(client, server)
    assert server.data[1] == grpc(b"x" * 200_000) and server.ended == [1] and not stream.unsent


def test_a_window_that_becomes_negative(client: Conversation) -> None:
    server = Server()
    server.credit = False
    asked(client, server, b"x" * 100_000)
    server.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    server.connection.increment_flow_control_window(100_000)
    exchange(client, server)
    assert len(server.data[1]) == 65535
    server.connection.increment_flow_control_window(100_000, 1)
    exchange(client, server)
    assert server.ended == [1]


def test_a_slow_reader_holds_up_itself_alone(client: Conversation) -> None:
    server = Server()
    slow, quick = asked(client, server), asked(client, server)
    message = grpc(bytes((1 << 20) - 5))
    for number in (1, 3):
        server.connection.send_headers(number, ANSWER)
    for _ in range(http2.WINDOW >> 20):
        server.send(1, message)
    exchange(client, server)
    assert server.connection.local_flow_control_window(1) == 0
    for _ in range(12):
        server.send(3, message)
        exchange(client, server)
        client.pop(quick)
        exchange(client, server)
    assert len(slow.messages) == 4
    for _ in range(4):
        client.pop(slow)
    exchange(client, server)
    assert server.connection.local_flow_control_window(1) == http2.WINDOW


def test_messages_in_any_pieces(client: Conversation) -> None:
    server = Server()
    stream = asked(client, server)
    server.connection.send_headers(1, ANSWER)
    for byte in grpc(b"one") + grpc(b"") + grpc(b"three"):
        server.connection.send_data(1, bytes((byte,)), pad_length=3)
    down = server.connection.data_to_send()
    for byte in down:
        client.receive(bytes((byte,)))
    assert list(stream.messages) == [b"one", b"", b"three"]


def test_a_message_as_long_as_may_be_and_one_longer(client: Conversation) -> None:
    server = Server()
    good, bad = asked(client, server), asked(client, server)
    server.connection.send_headers(1, ANSWER)
    left = memoryview(grpc(bytes(http2.MESSAGE_LIMIT)))
    while left:
        room = server.connection.local_flow_control_window(1)
        assert room
        server.send(1, bytes(left[:room]))
        left = left[room:]
        exchange(client, server)
    assert len(client.pop(good)) == http2.MESSAGE_LIMIT
    server.connection.send_headers(3, ANSWER)
    server.send(3, struct.pack(">BI", 0, http2.MESSAGE_LIMIT + 1))
    exchange(client, server)
    assert bad.status == http2.RESOURCE_EXHAUSTED and server.reset == {3: http2.CANCEL}


def test_compressed_and_cut_short(client: Conversation) -> None:
    server = Server()
    compressed, short = asked(client, server), asked(client, server)
    server.connection.send_headers(1, ANSWER)
    server.send(1, struct.pack(">BI", 1, 3))
    server.connection.send_headers(3, ANSWER)
    server.send(3, grpc(b"whole")[:-1])
    server.connection.send_headers(3, OK, end_stream=True)
    exchange(client, server)
    assert compressed.status == short.status == http2.INTERNAL


def test_cancelled(client: Conversation) -> None:
    server = Server()
    stream = asked(client, server)
    client.cancel(stream)
    client.cancel(stream)
    client.send(stream, b"more")
    client.finish(stream)
    # What was under way to it is dropped.
    server.connection.send_headers(1, ANSWER)
    server.send(1, grpc(b"late"))
    exchange(client, server)
    assert stream.status == http2.CANCELED and not stream.messages and server.reset == {1: http2.CANCEL}
    assert not client.lost and client.idle


@pytest.mark.parametrize(("code", "status"), [(7, 14), (8, 1), (0xB, 8), (0xC, 7), (2, 13), (0, 13)])
def test_reset_by_the_daemon(client: Conversation, code: int, status: int) -> None:
    server = Server()
    stream = asked(client, server)
    server.connection.reset_stream(1, code)
    exchange(client, server)
    assert stream.status == status and stream in client.changed()


def test_an_end_before_we_have_ended(client: Conversation) -> None:
    server = Server()
    stream = client.open("/a.B/C")
    client.send(stream, b"one")
    exchange(client, server)
    server.answer(1, trailers=[("grpc-status", "9"), ("grpc-message", "no")])
    exchange(client, server)
    assert (stream.status, stream.details) == (9, "no") and client.idle


def test_going_away(client: Conversation) -> None:
    """Calls that the daemon has taken go on, the others end, and no new ones start."""
    server = Server()
    taken, refused = asked(client, server), asked(client, server)
    server.connection.close_connection(last_stream_id=1, additional_data=b"bye")
    down = server.connection.data_to_send()
    client.receive(down)
    assert taken.status is None and not client.usable and not client.lost
    assert refused.status == http2.UNAVAILABLE and "bye" in refused.details
    # h2 says nothing more after a GOAWAY.
    head = http2.frame(
        http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, b"\x88\x00\x0bgrpc-status\x010"
    )
    client.receive(head)
    assert taken.status == 0 and client.idle


def test_lost(client: Conversation) -> None:
    server = Server()
    stream = asked(client, server)
    client.lose("gone")
    client.lose("twice")
    assert (stream.status, stream.details) == (http2.UNAVAILABLE, "gone") and not client.usable


def test_no_more_calls_at_once_than_allowed(client: Conversation) -> None:
    server = Server(max_concurrent_streams=2)
    exchange(client, server)
    streams = [asked(client, server, bytes((number,))) for number in range(4)]
    assert sorted(server.data) == [1, 3]
    client.cancel(streams[3])  # it never came to the daemon
    server.answer(1, b"answer")
    exchange(client, server)
    assert sorted(server.data) == [1, 3, 5] and server.data[5] == grpc(b"\x02")
    assert [stream.status for stream in streams] == [0, None, None, http2.CANCELED] and not server.reset


def test_ping(client: Conversation) -> None:
    server = Server()
    exchange(client, server)
    server.connection.ping(b"12345678")
    exchange(client, server)
    assert any(isinstance(event, h2.events.PingAckReceived) for event in server.events)


BROKEN = {
    "a frame too large": (1 << 20).to_bytes(3, "big")[:0] + ((1 << 20) + 1).to_bytes(3, "big") + bytes(6),
    "a push": http2.frame(http2.PUSH_PROMISE, 4, 1, bytes(4)),
    "data for no stream": http2.frame(http2.DATA, 0, 0, b""),
    "data for a stream to come": http2.frame(http2.DATA, 0, 7, b""),
    "a stream of the daemon's": http2.frame(http2.HEADERS, 4, 2, b""),
    "a block interrupted": http2.frame(http2.HEADERS, 0, 1, b"") + http2.frame(http2.PING, 0, 0, bytes(8)),
    "a rest of nothing": http2.frame(http2.CONTINUATION, 4, 1, b""),
    "a rest of another": http2.frame(http2.HEADERS, 0, 1, b"") + http2.frame(http2.CONTINUATION, 4, 3, b""),
    "padding only": http2.frame(http2.DATA, http2.PADDED, 1, b"\x05abc"),
    "no padding length": http2.frame(http2.DATA, http2.PADDED, 1, b""),
    "headers that are none": http2.frame(http2.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
    "a window too large": http2.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)),
    "settings cut short": http2.frame(http2.SETTINGS, 0, 0, b"abc"),
    "a reset cut short": http2.frame(http2.RST_STREAM, 0, 1, b"a"),
    "a GOAWAY cut short": http2.frame(http2.GOAWAY, 0, 0, b"abcde"),
    "more than the window": b"".join(
        http2.frame(http2.DATA, 0, 1, bytes(1 << 20)) for _ in range((http2.WINDOW >> 20) + 1)
    ),
    "headers without end": http2.frame(http2.HEADERS, 0, 1, b"")
    + b"".join(http2.frame(http2.CONTINUATION, 0, 1, bytes(1 << 20)) for _ in range(3)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_peer_that_breaks_the_rules(client: Conversation, case: str) -> None:
    """The connection is over, its calls with it, and the peer is told why."""
    stream = client.open("/a.B/C")
    client.receive(http2.frame(http2.HEADERS, 4, 1, b"\x88") if case == "more than the window" else b"")
    if case == "more than the window":  # a message that is always waiting: nothing is credited
        client.receive(http2.frame(http2.DATA, 0, 1, grpc(b"")))
    client.take()
    client.receive(BROKEN[case])
    assert client.lost and stream.status == http2.UNAVAILABLE and "protocol" in stream.details
    assert client.take().startswith(http2.frame(http2.GOAWAY, 0, 0, bytes(8))[:9])
    client.receive(b"whatever comes then")


@given(st.binary(max_size=400))
def test_nonsense(data: bytes) -> None:
    client = Conversation()
    client.open("/a.B/C")
    client.receive(data)
    client.take()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10), st.integers(0, 255), st.sampled_from([0, 1, 3, 5]), st.binary(max_size=40)
        )
    )
)
def test_frames_of_nonsense(frames: list[tuple[int, int, int, bytes]]) -> None:
    client = Conversation()
    streams = [client.open("/a.B/C") for _ in range(2)]
    for kind, flags, number, payload in frames:
        client.receive(http2.frame(kind, flags, number, payload))
    client.lose("end")
    assert all(stream.status is not None for stream in streams) and client.idle
