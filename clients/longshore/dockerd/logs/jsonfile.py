"""The json-file format: one JSON document per record.

    {"log":"text\\n","stream":"stdout","attrs":{...},"time":"2026-01-02T03:04:05.678901234Z"}

Made for bulk: lines that were read together carry one time, so that a block of
them becomes its records by a handful of replacements, however many they are.
"""

from __future__ import annotations

import re
import time

# In this order: the backslash first. Beyond what JSON wants escaped, what HTML has a meaning for.
_COMMON = (
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\r", b"\\r"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\t", b"\\u0009"),
)
# U+2028 and U+2029: ends of lines in old JavaScript.
_WIDE = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_CONTROLS = tuple((bytes([n]), b"\\u%04x" % n) for n in range(32) if n not in (9, 10, 13))
_ALL_BUT_CONTROLS = bytes(n for n in range(256) if n >= 32 or n in (9, 10, 13))
# What surrogateescape makes of bytes that are no UTF-8.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def escape(data: bytes) -> bytes:
    """As the inside of a JSON string, newlines excepted."""
    ascii = data.isascii()
    if not ascii:
        data = _valid(data)
    for byte, words in _COMMON:
        data = data.replace(byte, words)
    if not ascii:
        for byte, words in _WIDE:
            data = data.replace(byte, words)
    if data.translate(None, _ALL_BUT_CONTROLS):
        for byte, words in _CONTROLS:
            data = data.replace(byte, words)
    return data


def _valid(data: bytes) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    return _NOT_UTF8.sub("\ufffd", text).encode()


class Clock:
    """Times as the format has them; the part that changes once a second is made once a second."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def text(self, time_ns: int) -> bytes:
        """RFC 3339 in UTC, the fraction without trailing zeros."""
        second, fraction = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        if not fraction:
            return self._prefix + b"Z"
        return self._prefix + (b".%09d" % fraction).rstrip(b"0") + b"Z"


class Encoder:
    """Records of a container. `attrs` is a JSON object as text, "" for none."""

    def __init__(self, attrs: str = "") -> None:
        self._clock = Clock()
        self._attrs = b',"attrs":' + attrs.encode() if attrs else b""

    def encode(self, stream: str, time_ns: int, data: bytes, whole: bool) -> bytes:
        """Whole lines, or one piece of a line."""
        end = b'","stream":"%b"%b,"time":"%b"}\n' % (stream.encode(), self._attrs, self._clock.text(time_ns))
        text = escape(data)
        if not whole:
            return b'{"log":"' + text + end
        between = b"\\n" + end + b'{"log":"'
        return b'{"log":"' + text[:-1].replace(b"\n", between) + b"\\n" + end
