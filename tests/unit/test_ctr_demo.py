"""The demo's refusals and its search for leftovers; the demo itself is an integration test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.ctr import demo, traces


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert demo.main() == 1
    assert "root" in capsys.readouterr().err


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert any("command sh" in what for what in demo.missing())


def test_leftovers_are_found_named_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "file").touch()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        process = traces.identify(child.pid)
        assert process is not None
        assert process in traces.descendants(os.getpid())
        left = traces.await_gone({process}, seconds=0)
        assert left == [process]
        child.kill()
        child.wait()
        assert traces.await_gone({process}, seconds=1) == []
        assert traces.clean(str(folder), "no-such-namespace", {process}, "", traces.survey()) == []
        assert not folder.exists()
    finally:
        child.kill()
        child.wait()


def test_a_pid_used_again_is_another_process() -> None:
    me = traces.identify(os.getpid())
    assert me is not None
    assert traces.await_gone({traces.ProcessId(me.pid, me.started - 1)}, seconds=0) == []


def test_where_overlays_cannot_stack() -> None:
    assert traces.snapshotter_for("/proc") in ("overlayfs", "native")
