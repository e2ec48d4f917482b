"""Times are integers: nanoseconds since the epoch (datetime has only micro, and loses the rest)."""

from __future__ import annotations

import time
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

_SECOND: Final = 1_000_000_000


def timestamp(time_ns: int) -> Timestamp:
    """The protobuf form of an integer time."""
    seconds, nanos = divmod(time_ns, _SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def nanoseconds(stamp: Timestamp) -> int:
    """The integer of a protobuf time, limited to what 64 bits hold (Go's zero time lies outside)."""
    return max(-(2**63), min(stamp.seconds * _SECOND + stamp.nanos, 2**63 - 1))


def now() -> Timestamp:
    """The wall clock as a protobuf time."""
    return timestamp(time.time_ns())
