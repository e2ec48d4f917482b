"""The version that we say is the version that we are."""

from __future__ import annotations

import tomllib
from pathlib import Path

from longshore.api import release


def test_one_version() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == release.VERSION
