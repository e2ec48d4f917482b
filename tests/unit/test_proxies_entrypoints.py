"""Packages that can't be loaded are an error in the list of plugins, not the end of the daemon."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from longshore.api import errors
from longshore.containerd.proxies import entrypoints
from longshore.containerd.proxies.example import CopyDriver
from longshore.containerd.proxies.serve import load

EXAMPLE = "longshore.containerd.proxies.example:CopyDriver"


def test_entry_points_are_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("b", EXAMPLE, entrypoints.SNAPSHOTTERS),
        EntryPoint("a", "nowhere.at:all", entrypoints.SNAPSHOTTERS),
    ]
    monkeypatch.setattr(entrypoints, "entry_points", lambda group: points)
    found = dict(entrypoints.found(entrypoints.SNAPSHOTTERS))
    assert found["b"] is CopyDriver
    assert isinstance(found["a"], errors.Error) and "nowhere" in found["a"].message


def test_drivers_are_loaded_by_module_and_name() -> None:
    assert load(EXAMPLE) is CopyDriver
    for wrong in ("", "os", "os:nothing", "nowhere.at:all"):
        with pytest.raises(errors.InvalidArgument):
            load(wrong)
