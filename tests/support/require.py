"""What a test needs and this machine may lack: a skip, which the last lines tell of, and in CI a failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import goparts


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def lacking(reason: str) -> None:
    """Leave the running test out because of `reason`; where CI runs, nothing may be left out."""
    if in_ci():
        pytest.fail(f"in CI nothing is left out, but {reason}", pytrace=False)
    pytest.skip(reason)


def root() -> None:
    if os.geteuid() != 0:
        lacking("this needs root")


def go(*names: str) -> list[Path]:
    """The executables of the Go parts `names`."""
    try:
        return [goparts.path(name) for name in names]
    except goparts.Missing as error:
        lacking(str(error))
        raise
