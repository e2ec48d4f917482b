"""Packages that can't be loaded are an error in the list of plugins, not the end of the daemon."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

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
    monkeypatch.setattr(entrypoints, "_entry_points", lambda group: points)
    monkeypatch.setattr(entrypoints, "named", lambda group, path: True)
    found = dict(entrypoints.found(entrypoints.SNAPSHOTTERS))
    assert found["b"] is CopyDriver
    assert isinstance(found["a"], errors.Error) and "nowhere" in found["a"].message


def test_packages_are_asked_where_one_may_have_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = entrypoints.SNAPSHOTTERS
    package = tmp_path / "reflink-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: reflink\nVersion: 1.0\n")
    path = [str(tmp_path / "none"), str(tmp_path)]
    assert not entrypoints.named(group, path)
    (package / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[{group}]\ncopy = {EXAMPLE}\n")
    assert entrypoints.named(group, path) and not entrypoints.named(entrypoints.DIFFERS, path)
    monkeypatch.setattr(sys, "path", path)
    assert dict(entrypoints.found(group)) == {"copy": CopyDriver}
    assert not dict(entrypoints.found(entrypoints.DIFFERS))
    (tmp_path / "packages.zip").write_bytes(b"")
    assert entrypoints.named(entrypoints.DIFFERS, [*path, str(tmp_path / "packages.zip")])


def test_drivers_are_loaded_by_module_and_name() -> None:
    assert load(EXAMPLE) is CopyDriver
    for wrong in ("", "os", "os:nothing", "nowhere.at:all"):
        with pytest.raises(errors.InvalidArgument):
            load(wrong)
