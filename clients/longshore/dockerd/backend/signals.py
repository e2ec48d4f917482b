"""Signals by name or number."""

from __future__ import annotations

import signal

from longshore.api.errors import InvalidArgument

_REALTIME_FIRST, _REALTIME_LAST = int(signal.SIGRTMIN), int(signal.SIGRTMAX)


def number(text: str) -> int:
    """ "KILL", "SIGKILL", "sigkill", "9", "RTMIN+3". Raises InvalidArgument."""
    if text.isdigit():
        value = int(text)
        if 0 < value <= _REALTIME_LAST:
            return value
        raise InvalidArgument(f"Invalid signal: {text}")
    name = text.upper().removeprefix("SIG")
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    try:
        value = int(signal.Signals[f"SIG{base}"])
    except KeyError:
        raise InvalidArgument(f"Invalid signal: {text}") from None
    if sign:
        if base not in ("RTMIN", "RTMAX") or not offset.isdigit():
            raise InvalidArgument(f"Invalid signal: {text}")
        value += int(offset) if sign == "+" else -int(offset)
    return value
