"""The life that the zygote plays is a whole one: a call that fails in it warms nothing."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from longshore.shim import rehearsal


def test_every_call_of_the_life_works_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "ROUNDS", 2)
    before = set(os.listdir("/proc/self/fd"))
    assert rehearsal.rehearse(str(tmp_path)) == []
    # Fewer are none of its business: what earlier tests left to the collector may go meanwhile.
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not list(tmp_path.iterdir())


def test_what_a_killed_rehearsal_left_is_removed(tmp_path: Path) -> None:
    """Not what is fresh, what somebody holds, and what only looks alike."""
    left, fresh, held = (tmp_path / f"longshore-{n}-0123456789ab" for n in (1, 2, 3))
    other = tmp_path / "longshore-precious"
    for folder in (left, fresh, held, other):
        folder.mkdir()
        (folder / "out").write_text("")
    for folder in (left, held, other):
        os.utime(folder, (0, 0))
    fd = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert rehearsal.rehearse(str(tmp_path)) == []
    finally:
        os.close(fd)
    assert sorted(tmp_path.iterdir()) == sorted((fresh, held, other))
