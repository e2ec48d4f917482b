"""What we answer when asked for a version: the containerd whose API this is, then our own."""

from __future__ import annotations

from longshore.api import release

CONTAINERD = "2.3.4"
VERSION = f"{CONTAINERD}+longshore.{release.VERSION}"
REVISION = f"longshore-{release.VERSION}"
