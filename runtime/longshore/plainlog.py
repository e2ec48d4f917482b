"""The daemons' logs: structlog on stderr, as text for people or JSON for machines. Import it before anything that logs.

structlog imports rich where it finds it, to draw tracebacks in colours. We have
it for ctr's tables; our daemons print tracebacks as they are, and would hold 5
to 7 MiB of it for nothing.
"""

from __future__ import annotations

import logging
import sys

if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog
    finally:
        del sys.modules["rich"]
else:
    import structlog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from structlog.typing import Processor

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


def configure(style: str, least: int, *first: Processor) -> None:
    """Set up the process' log: `style` is text or json, `least` a level of `logging`; `first` sees events before us."""
    structlog.configure(
        processors=[
            *first,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *_renderers(style),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _renderers(style: str) -> list[Processor]:
    if style == "json":
        return [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    plain = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
    )
    return [plain]
