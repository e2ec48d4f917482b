"""The client's HPACK against `hpack`, an independent implementation."""

from __future__ import annotations

import hpack as independent
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from longshore.client.wire import hpack
from longshore.client.wire.hpack import Malformed

NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=200)
VALUES = st.text(max_size=300)
HEADERS = st.lists(st.tuples(NAMES, VALUES) | st.sampled_from([(":status", "200"), ("grpc-status", "5")]))


@given(HEADERS)
def test_what_we_say_is_understood(headers: list[tuple[str, str]]) -> None:
    decoder = independent.Decoder(max_header_list_size=1 << 20)
    assert [(str(name), str(value)) for name, value in decoder.decode(hpack.encode(headers))] == headers


@given(HEADERS, st.booleans())
def test_what_is_said_we_understand(headers: list[tuple[str, str]], coded: bool) -> None:
    encoder = independent.Encoder()
    encoder.header_table_size = 0  # begins with an update of the table's size
    for _ in range(2):
        assert hpack.decode(encoder.encode(headers, huffman=coded)) == headers


@given(st.binary(max_size=300))
def test_huffman(data: bytes) -> None:
    assert hpack.unhuffman(HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(data)) == data


@pytest.mark.parametrize(
    "block",
    [
        "80",  # index 0
        "be",  # the first dynamic entry
        "ff80808080",  # an index without end
        "ffffffffff7f",
        "3fe11f",  # a dynamic table of 4096 bytes
        "00",  # a name that isn't there
        "000561",  # shorter than it says
        "0001610263",
        "00016184ffffffff",  # the end mark, coded
        "0001618100",  # padded with zeros
        "00016182 1fff",  # padded with a whole byte
    ],
)
def test_malformed(block: str) -> None:
    with pytest.raises(Malformed):
        hpack.decode(bytes.fromhex(block))


@given(st.binary(max_size=200))
def test_nonsense_is_malformed_or_headers(block: bytes) -> None:
    try:
        hpack.decode(block)
    except Malformed:
        pass
