"""DNS messages, as much as the embedded server needs: bytes in, bytes out, no sockets.

A question is understood when it is one plain question; everything else is for
the servers outside. Answers repeat the question and point at its name.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
IN: Final = 1
TTL: Final = 600
"""Seconds, as the original's."""

OK: Final = 0
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
REFUSED: Final = 5

UDP_LIMIT: Final = 512

_HEADER: Final = struct.Struct(">HHHHHH")
_QUESTION: Final = struct.Struct(">HH")
_RECORD: Final = struct.Struct(">HHIH")
_QR: Final = 0x8000
_OPCODE: Final = 0x7800
_TC: Final = 0x0200
_RD: Final = 0x0100
_RA: Final = 0x0080
_NAME: Final = 0xC00C
"""A pointer to the question's name, right behind the header."""


class Question(NamedTuple):
    """`name` in lower case without the last dot; `raw` is the question section."""

    id: int
    flags: int
    name: str
    kind: int
    raw: bytes


def parse(packet: bytes) -> Question:
    """ValueError for what is no query with exactly one question."""
    if len(packet) < _HEADER.size:
        raise ValueError("too short for a DNS message")
    id, flags, count, *_ = _HEADER.unpack_from(packet)
    if flags & _QR or flags & _OPCODE or count != 1:
        raise ValueError("not a plain DNS query")
    labels, end = _labels(packet, _HEADER.size)
    if end + _QUESTION.size > len(packet):
        raise ValueError("the DNS question is cut short")
    kind, kind_class = _QUESTION.unpack_from(packet, end)
    if kind_class != IN:
        raise ValueError("not of the internet's class")
    name = b".".join(labels).decode("ascii", "replace").lower()
    return Question(id, flags, name, kind, packet[_HEADER.size : end + _QUESTION.size])


def _labels(packet: bytes, offset: int) -> tuple[list[bytes], int]:
    labels: list[bytes] = []
    while True:
        if offset >= len(packet):
            raise ValueError("the DNS name is cut short")
        size = packet[offset]
        offset += 1
        if size == 0:
            return labels, offset
        if size > 63 or offset + size > len(packet):
            raise ValueError("a DNS label is too long")
        labels.append(packet[offset : offset + size])
        offset += size


def addresses(question: Question, found: Sequence[IPv4Address | IPv6Address]) -> bytes:
    """The answer with the addresses of the asked kind; none of them is no error."""
    version = 4 if question.kind == A else 6
    return _answer(question, [each.packed for each in found if each.version == version])


def name(question: Question, name: str) -> bytes:
    """The answer to a reverse query."""
    return _answer(question, [encode_name(name)])


def _answer(question: Question, payloads: Sequence[bytes]) -> bytes:
    body = b"".join(
        struct.pack(">H", _NAME) + _RECORD.pack(question.kind, IN, TTL, len(each)) + each for each in payloads
    )
    return _head(question, OK, len(payloads)) + body


def failure(question: Question, code: int) -> bytes:
    return _head(question, code, 0)


def truncated(question: Question) -> bytes:
    """Ask again by TCP."""
    head = bytearray(_head(question, OK, 0))
    head[2] |= _TC >> 8
    return bytes(head)


def _head(question: Question, code: int, count: int) -> bytes:
    flags = _QR | _RA | (question.flags & _RD) | code
    return _HEADER.pack(question.id, flags, 1, count, 0, 0) + question.raw


def code_of(packet: bytes) -> int:
    """The response code of an answer; SERVFAIL for what is none."""
    return packet[3] & 0xF if len(packet) >= _HEADER.size else SERVFAIL


def encode_name(name: str) -> bytes:
    """ValueError where a label is empty or longer than 63 bytes."""
    labels = [label.encode("ascii", "replace") for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"not a DNS name: {name!r}")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def reversed_address(name: str) -> IPv4Address | IPv6Address | None:
    """The address that a name below in-addr.arpa or ip6.arpa means."""
    try:
        if name.endswith(".in-addr.arpa"):
            return IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split("."))))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
            return IPv6Address(int(digits, 16)) if len(digits) == 32 else None
    except ValueError:
        pass
    return None
