"""Times and durations as the Engine API writes them."""

from __future__ import annotations

import re
import time
from typing import Final

from longshore.api.errors import InvalidArgument

NEVER: Final = "0001-01-01T00:00:00Z"
SECOND: Final = 1_000_000_000

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?)?(Z|z|[+-]\d\d:\d\d)?")


def rfc3339(time_ns: int) -> str:
    """With as many digits of the fraction as it has; 0 is the year 1, as Go writes its zero time."""
    return exact(time_ns) if time_ns > 0 else NEVER


def exact(time_ns: int) -> str:
    """As `rfc3339` without a zero time: of files, where 0 is 1970."""
    seconds, nanos = divmod(time_ns, SECOND)
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}{fraction}Z"


def parse(text: str, now_ns: int | None = None) -> int:
    """Nanoseconds since the epoch of "SECONDS[.FRACTION]", RFC 3339, or a duration before now ("10m"); "" is 0.

    Raises InvalidArgument.
    """
    if not text:
        return 0
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        whole, _, fraction = text.partition(".")
        if abs(int(whole)) >= 1 << 63:
            raise InvalidArgument(f'time out of range: "{text}"')
        return int(whole) * SECOND + int((fraction + "0" * 9)[:9])
    if (ago := duration(text)) is not None:
        return (time.time_ns() if now_ns is None else now_ns) - ago
    if found := _RFC3339.fullmatch(text):
        return _calendar(text, found)
    raise InvalidArgument(f'failed to parse value as time or duration: "{text}"')


def _calendar(text: str, found: re.Match[str]) -> int:
    from calendar import timegm

    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        stamp = f"{year}-{month}-{day} {hour or '00'}:{minute or '00'}:{second or '00'}"
        seconds = timegm(time.strptime(stamp, "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        raise InvalidArgument(f'parsing time "{text}": out of range') from None
    if zone and zone not in "Zz":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    nanos = int((fraction[1:] + "0" * 9)[:9]) if fraction else 0
    return seconds * SECOND + nanos


def duration(text: str) -> int | None:
    """Nanoseconds of Go's "1h2m3.5s"; None if it is none."""
    body = text.removeprefix("-").removeprefix("+")
    if not body or _PART.sub("", body):
        return None
    total = sum(int(float(number) * _UNITS[unit]) for number, unit in _PART.findall(body))
    return -total if text.startswith("-") else total


def ago(seconds: float) -> str:
    """How long that is, the way people say it: "3 minutes", "About an hour"."""
    whole = int(seconds)
    hours = int(seconds / 3600 + 0.5)
    minutes = whole // 60
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    if hours < 24 * 60:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def fixed(time_ns: int) -> str:
    """With all nine digits, as log lines are stamped."""
    seconds, nanos = divmod(time_ns, SECOND)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09d}Z"
