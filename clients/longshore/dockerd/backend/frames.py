"""Two outputs on one connection: the Engine API's multiplexed stream, without I/O.

Each frame is a header of 8 bytes (stream number, three zero bytes, the
payload's length as a big-endian 32-bit number) and the payload. With a
terminal there is one output, and it travels raw.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

RAW: Final = "application/vnd.docker.raw-stream"
MULTIPLEXED: Final = "application/vnd.docker.multiplexed-stream"

MULTIPLEXED_SINCE: Final = (1, 42)
"""Before this version the raw type was announced for both."""

_NUMBERS: Final = {"stdin": 0, "stdout": 1, "stderr": 2, "systemerr": 3}
_HEADER: Final = struct.Struct(">BxxxI")


def frame(stream: str, data: bytes) -> bytes:
    """`data` of "stdout", "stderr" (or "systemerr": the daemon's own last words), headed."""
    return _HEADER.pack(_NUMBERS[stream], len(data)) + data


def raw(_stream: str, data: bytes) -> bytes:
    return data


def framing(terminal: bool) -> Callable[[str, bytes], bytes]:
    """What turns a piece of output into bytes on the connection."""
    return raw if terminal else frame


def content_type(terminal: bool, version: tuple[int, int]) -> str:
    return RAW if terminal or version < MULTIPLEXED_SINCE else MULTIPLEXED
