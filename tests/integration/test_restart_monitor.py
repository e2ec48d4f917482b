"""Containers with restart labels, under our daemon with a short interval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import process
from support.daemon import Longshore
from support.images import BUSYBOX, busybox_archive

CONFIG = """version = 3
[plugins."io.containerd.monitor.container.v1.restart"]
interval = "200ms"
"""
STATUS, COUNT = "containerd.io/restart.status", "containerd.io/restart.count"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Longshore]:
    with Longshore(config=CONFIG) as running:
        running.ctr("images", "import", busybox_archive(tmp_path))
        yield running


def pid(daemon: Longshore, id: str) -> int:
    """Of its running task, 0 if there is none."""
    for line in daemon.ctr("tasks", "ls").stdout.splitlines()[1:]:
        words = line.split()
        if words[0] == id and "RUNNING" in words:
            return int(words[1])
    return 0


def test_one_that_ends_is_started_again_until_it_shall_stop(daemon: Longshore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    labels = ["--label", f"{STATUS}=running", "--label", f"containerd.io/restart.loguri=file://{log}"]
    daemon.ctr("run", "-d", *labels, BUSYBOX, "box", "sh", "-c", "echo begun; exec sleep 1000")
    first = pid(daemon, "box")
    daemon.ctr("tasks", "kill", "-s", "KILL", "box")
    process.eventually(lambda: pid(daemon, "box") not in (0, first), what="it runs again")
    assert f'"{COUNT}": "1"' in daemon.ctr("containers", "info", "box").stdout
    process.eventually(lambda: log.exists() and log.read_text() == "begun\n", what="its output is there")
    daemon.ctr("containers", "label", "box", f"{STATUS}=stopped")
    process.eventually(lambda: "box" not in daemon.ctr("tasks", "ls").stdout, what="it has stopped")
    daemon.ctr("containers", "rm", "box")
