"""v1's cpuset on a folder tree: nothing can join one that lacks CPUs or memory nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.linux.cgroup.manager import Cgroup

FULL = {"cpuset.cpus": "0-1", "cpuset.mems": "0"}


def group(folder: Path, cpus: str, mems: str) -> Path:
    folder.mkdir()
    (folder / "cpuset.cpus").write_text(cpus)
    (folder / "cpuset.mems").write_text(mems)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in FULL}


@pytest.mark.parametrize("parent", [("", ""), ("0-1", ""), ("", "0")])
def test_parents_are_completed_too(tmp_path: Path, parent: tuple[str, str]) -> None:
    """Half full is how a parent looks while another container's creation is at it."""
    top = group(tmp_path / "top", **{name.removeprefix("cpuset."): value for name, value in FULL.items()})
    above = group(top / "parent", *parent)
    own = group(above / "own", "", "")
    Cgroup({"cpuset": str(own)}, 1).create()
    assert content(above) == content(own) == FULL
