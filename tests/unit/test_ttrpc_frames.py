"""The ttrpc wire: framing, and what each end says to a peer that breaks the rules."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from longshore.api.errors import Error, InvalidArgument, NotFound, ResourceExhausted
from longshore.api.ttrpc.request_pb2 import Request, Response
from longshore.ttrpc import frames
from longshore.ttrpc.client import Calls
from longshore.ttrpc.server import Connection

FRAMES = st.builds(
    frames.Frame,
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=64),
    st.just(0),
)


def request(stream: int, **fields: object) -> bytes:
    data = Request(service="s", method="m", **fields).SerializeToString()  # type: ignore[arg-type]
    return frames.encode(frames.Frame(stream, frames.REQUEST, 0, data))


def answers(connection: Connection) -> list[tuple[int, Response]]:
    out = frames.Decoder().feed(connection.take())
    return [(frame.stream, Response.FromString(frame.data)) for frame in out]


def test_header_layout() -> None:
    frame = frames.Frame(3, frames.REQUEST, frames.REMOTE_OPEN, b"abc")
    assert frames.encode(frame) == b"\0\0\0\3\0\0\0\3\1\2abc"


@given(st.lists(FRAMES, max_size=8), st.integers(1, 40))
def test_any_cut_of_the_bytes_gives_the_same_frames(sent: list[frames.Frame], step: int) -> None:
    wire = b"".join(map(frames.encode, sent))
    decoder = frames.Decoder()
    received = [f for at in range(0, len(wire), step) for f in decoder.feed(wire[at : at + step])]
    assert received == sent


def test_largest_message_passes_and_one_byte_more_does_not() -> None:
    largest = frames.Frame(1, frames.REQUEST, 0, bytes(frames.MAX_DATA))
    assert frames.Decoder().feed(frames.encode(largest)) == [largest]
    with pytest.raises(ResourceExhausted):
        frames.encode(largest._replace(data=bytes(frames.MAX_DATA + 1)))


def test_oversized_frame_is_skipped_and_the_next_one_read() -> None:
    length = frames.MAX_DATA + 1
    wire = length.to_bytes(4, "big") + b"\0\0\0\1\1\0" + bytes(length) + request(3)
    first, second = frames.Decoder().feed(wire)
    assert (first.stream, first.oversize, first.data) == (1, length, b"")
    assert second.stream == 3 and not second.oversize


def test_server_answers_an_oversized_request_and_lives() -> None:
    connection = Connection()
    length = frames.MAX_DATA + 1
    connection.receive(length.to_bytes(4, "big") + b"\0\0\0\1\1\0")
    [(stream, response)] = answers(connection)
    assert (stream, response.status.code) == (1, ResourceExhausted.code)
    connection.receive(bytes(length))
    assert [call.stream for call in connection.receive(request(3))] == [3]


@pytest.mark.parametrize("stream", [2, 5, 3])
def test_even_and_reused_streams_are_refused(stream: int) -> None:
    connection = Connection()
    assert len(connection.receive(request(5))) == 1
    assert connection.receive(request(stream)) == []
    [(answered, response)] = answers(connection)
    assert (answered, response.status.code) == (stream, InvalidArgument.code)
    assert len(connection.receive(request(7))) == 1


def test_malformed_request_is_answered_on_its_stream() -> None:
    connection = Connection()
    bad = frames.encode(frames.Frame(1, frames.REQUEST, 0, b"\xff\xff\xff"))
    assert connection.receive(bad + request(3))[0].stream == 3
    [(stream, response)] = answers(connection)
    assert (stream, response.status.code) == (1, InvalidArgument.code)


def test_stray_data_is_ignored_and_a_response_is_refused() -> None:
    connection = Connection()
    stray = frames.encode(frames.Frame(1, frames.DATA, frames.REMOTE_CLOSED | frames.NO_DATA, b""))
    assert connection.receive(stray) == [] and connection.take() == b""
    connection.receive(frames.encode(frames.Frame(1, frames.RESPONSE, 0, b"")))
    assert answers(connection)[0][1].status.code == InvalidArgument.code


def test_metadata_keys_are_lowered_and_values_repeat() -> None:
    _, wire = Calls().send("s", "m", b"", metadata={"Containerd-Namespace-TTRPC": ["a", "b"]}, timeout=1.5)
    [call] = Connection().receive(wire)
    assert call.metadata == {"containerd-namespace-ttrpc": ["a", "b"]}
    assert call.timeout_nano == 1_500_000_000


def test_calls_and_answers_in_any_order() -> None:
    client, server = Calls(), Connection()
    sent = [client.send("s", f"m{n}", b"") for n in range(3)]
    calls = server.receive(b"".join(wire for _, wire in sent))
    assert [call.method for call in calls] == ["m0", "m1", "m2"]
    server.respond(calls[2].stream, StringValue(value="two"))
    server.fail(calls[0].stream, NotFound("x: not found"))
    server.fail(calls[1].stream, ValueError("odd"))
    two, zero, one = client.receive(server.take())
    assert (two.stream, StringValue.FromString(two.payload).value) == (sent[2][0], "two")
    assert isinstance(zero.error, NotFound) and zero.error.message == "x: not found"
    assert type(one.error) is Error and one.error.message == "odd"


def test_a_result_too_large_becomes_an_error() -> None:
    connection = Connection()
    connection.respond(1, StringValue(value="x" * (frames.MAX_DATA + 1)))
    assert answers(connection)[0][1].status.code == ResourceExhausted.code
