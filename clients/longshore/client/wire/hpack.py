"""HPACK (RFC 7541), as much of it as a client needs that allows no dynamic table.

Our SETTINGS give that table no room, so a peer refers to the static one or
spells out; requests are spelled out always, since one that is made once gains
nothing from a table. Strings that come may be Huffman-coded, ours are not.
"""

from __future__ import annotations

from collections.abc import Iterable


class Malformed(Exception):
    """A header block that breaks the rules: the connection can't go on."""


# Appendix A, from index 1 on: "name" or "name value".
_TABLE = """\
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate
"""
_STATIC = [(name, value) for name, _, value in (line.partition(" ") for line in _TABLE.splitlines())]

# Appendix B: bits of the code of each byte, and of the end mark. The code is canonical, so the lengths say all.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
_END = 256


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """Each as a literal that nobody keeps. Values are UTF-8; names are lower case already."""
    block = bytearray()
    for name, value in headers:
        block += b"\0"
        for text in (name, value):
            data = text.encode()
            block += _number(len(data), 7) + data
    return bytes(block)


def _number(value: int, bits: int) -> bytes:
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((value,))
    value -= limit
    rest = bytearray((limit,))
    while value >= 0x80:
        rest.append(value & 0x7F | 0x80)
        value >>= 7
    rest.append(value)
    return bytes(rest)


def decode(block: bytes) -> list[tuple[str, str]]:
    """The headers of a whole block, in order. Raises Malformed."""
    found = []
    at = 0
    try:
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _read_number(block, at, 7)
                found.append(_static(index))
                continue
            if first & 0xE0 == 0x20:
                size, at = _read_number(block, at, 5)
                if size:
                    raise Malformed("a dynamic table that our settings forbid")
                continue
            index, at = _read_number(block, at, 6 if first & 0x40 else 4)
            if index:
                name = _static(index)[0]
            else:
                name, at = _read_text(block, at)
            value, at = _read_text(block, at)
            found.append((name, value))
    except IndexError:
        raise Malformed("a header block that ends too early") from None
    return found


def _static(index: int) -> tuple[str, str]:
    if not 1 <= index <= len(_STATIC):
        raise Malformed(f"index {index} of a table that has no such entry")
    return _STATIC[index - 1]


def _read_number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The number that begins in the low `bits` of a byte, and where the next thing is."""
    limit = (1 << bits) - 1
    value = block[at] & limit
    at += 1
    if value < limit:
        return value, at
    for shift in range(0, 28, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise Malformed("a number above 2**28")


def _read_text(block: bytes, at: int) -> tuple[str, int]:
    coded = block[at] & 0x80
    length, at = _read_number(block, at, 7)
    data = block[at : at + length]
    if len(data) < length:
        raise IndexError
    return (unhuffman(data) if coded else data).decode("utf-8", "replace"), at + length


# Code words of one length are consecutive numbers: (length, first one, one above the last, index of its symbol).
_rows: list[tuple[int, int, int, int]] = []
_order: list[int] = []


def _prepare() -> None:
    _order.extend(sorted(range(_END + 1), key=lambda symbol: (_LENGTHS[symbol], symbol)))
    code = index = 0
    for length in range(1, max(_LENGTHS) + 1):
        code <<= 1
        count = _LENGTHS.count(length)
        if count:
            _rows.append((length, code, code + count, index))
            code += count
            index += count


def unhuffman(data: bytes) -> bytes:
    """Raises Malformed for the end mark, and for padding that isn't its beginning."""
    if not _rows:
        _prepare()
    text = bytearray()
    bits = have = 0
    for byte in data:
        bits, have = bits << 8 | byte, have + 8
        while found := _first(bits, have):
            symbol, length = found
            if symbol == _END:
                raise Malformed("the end mark inside a string")
            text.append(symbol)
            have -= length
            bits &= (1 << have) - 1
    if have > 7 or bits != (1 << have) - 1:
        raise Malformed("padding that isn't the beginning of the end mark")
    return bytes(text)


def _first(bits: int, have: int) -> tuple[int, int] | None:
    """The symbol that the first of `have` bits stand for, and their number; None if more are needed."""
    for length, first, above, index in _rows:
        if length > have:
            return None
        code = bits >> (have - length)
        if code < above:
            return _order[index + code - first], length
    return None
