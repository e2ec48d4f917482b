"""The life that the zygote plays is a whole one: a call that fails in it warms nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longshore.shim import rehearsal


def test_every_call_of_the_life_works_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "ROUNDS", 2)
    before = os.listdir("/proc/self/fd")
    assert rehearsal.rehearse(str(tmp_path)) == []
    assert os.listdir("/proc/self/fd") == before
    assert not list(tmp_path.iterdir())
