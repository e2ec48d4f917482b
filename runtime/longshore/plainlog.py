"""Import this before anything that logs: structlog without rich.

structlog imports rich where it finds it, to draw tracebacks in colours. We have
it for ctr's tables; our daemons print tracebacks as they are, and would hold 5
to 7 MiB of it for nothing.
"""

from __future__ import annotations

import sys

if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
