"""Logging: structlog on stderr, as text for people or JSON for machines."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog

LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}


def configure(level: str, style: str) -> None:
    """Set up logging for the process; `style` is text or json. Raises ValueError for an unknown level or style."""
    if level not in LEVELS:
        raise ValueError(f"not a valid log level: {level!r} (one of {', '.join(LEVELS)})")
    if style not in ("text", "json"):
        raise ValueError(f"not a valid log format: {style!r} (text or json)")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *_renderers(style),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (asyncio, grpc) speak through the standard module.
    logging.basicConfig(level=max(LEVELS[level], logging.WARNING), stream=sys.stderr, force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_of_interest)


def _of_interest(record: logging.LogRecord) -> bool:
    """False for what grpc says, with a traceback, when a client went in the moment of its answer."""
    return "raised in core by servicer method" not in record.getMessage()


def _renderers(style: str) -> list[Any]:
    if style == "json":
        return [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    plain = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
    )
    return [plain]
