"""What we answer when asked for a version: the containerd whose API this is, then our own."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _own() -> str:
    try:
        return version("longshore")
    except PackageNotFoundError:
        return "0"


CONTAINERD = "2.3.4"
VERSION = f"{CONTAINERD}+longshore.{_own()}"
REVISION = f"longshore-{_own()}"
