"""containerd's log, and what libraries say."""

from __future__ import annotations

import logging
import sys

from longshore import plainlog
from longshore.plainlog import LEVELS as LEVELS


def configure(level: str, style: str) -> None:
    """Set up logging for the process; `style` is text or json. Raises ValueError for an unknown level or style."""
    if level not in LEVELS:
        raise ValueError(f"not a valid log level: {level!r} (one of {', '.join(LEVELS)})")
    if style not in ("text", "json"):
        raise ValueError(f"not a valid log format: {style!r} (text or json)")
    plainlog.configure(style, LEVELS[level])
    # Libraries (asyncio, grpc) speak through the standard module.
    logging.basicConfig(level=max(LEVELS[level], logging.WARNING), stream=sys.stderr, force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_of_interest)


def _of_interest(record: logging.LogRecord) -> bool:
    """False for what grpc says, with a traceback, when a client went in the moment of its answer."""
    return "raised in core by servicer method" not in record.getMessage()
