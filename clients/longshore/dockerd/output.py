"""dockerd's log: structlog on stderr. The level can change while it runs (SIGHUP, `debug`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from longshore import plainlog
from longshore.plainlog import LEVELS

_threshold = logging.INFO


def configure(level: str, style: str) -> None:
    """Set up the process's log; `style` is text or json, `level` one of LEVELS."""
    set_level(level)
    plainlog.configure(style, logging.DEBUG, _drop_below)
    # Libraries (asyncio, grpc) speak through the standard module.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)


def set_level(level: str) -> None:
    global _threshold
    _threshold = LEVELS[level]


def _drop_below(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if LEVELS.get(method, logging.ERROR) < _threshold:
        raise structlog.DropEvent
    return event
