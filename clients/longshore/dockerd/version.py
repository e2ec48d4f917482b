"""What the daemon calls itself: the Docker whose API this is, then our own version."""

from __future__ import annotations

from typing import Final

from longshore.api import release

DOCKER: Final = "28.1.1"
VERSION: Final = f"{DOCKER}+longshore.{release.VERSION}"
COMMIT: Final = f"longshore-{release.VERSION}"
