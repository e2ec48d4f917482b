"""How often: small counts in `make test`, the full ones in `make soak`."""

from __future__ import annotations

import os

SOAK = os.environ.get("LONGSHORE_SOAK", "") not in ("", "0")


def times(small: int, full: int) -> int:
    return full if SOAK else small
