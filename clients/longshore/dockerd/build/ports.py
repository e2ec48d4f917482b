"""What EXPOSE names: ports with their protocol, and ranges of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from longshore.api.errors import InvalidArgument

_PROTOCOLS: Final = ("tcp", "udp", "sctp")
_RANGE: Final = re.compile(r"(\d+)(?:-(\d+))?")


def exposed(words: Iterable[str]) -> list[str]:
    """``80``, ``53/udp``, ``8000-8002``, also behind an address and a host's port: PORT/PROTOCOL each.

    Raises InvalidArgument.
    """
    found: list[str] = []
    for word in words:
        container, slash, protocol = word.rpartition(":")[2].partition("/")
        if not container:
            raise InvalidArgument(f"No port specified: {word}<empty>")
        protocol = protocol.lower() if slash and protocol else "tcp"
        if protocol not in _PROTOCOLS:
            raise InvalidArgument(f"Invalid proto: {protocol}")
        found += [f"{port}/{protocol}" for port in _numbers(container)]
    return found


def _numbers(text: str) -> range:
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if not 0 <= first <= last <= 65535:
        raise InvalidArgument(f"Invalid containerPort: {text}")
    return range(first, last + 1)
