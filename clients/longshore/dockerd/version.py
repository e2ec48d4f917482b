"""What the daemon calls itself: the Docker whose API this is, then our own version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _own() -> str:
    try:
        return version("longshore")
    except PackageNotFoundError:
        return "0"


DOCKER: Final = "28.1.1"
VERSION: Final = f"{DOCKER}+longshore.{_own()}"
COMMIT: Final = f"longshore-{_own()}"
