"""The example snapshotter under both daemons: Debian's ctr imports an image onto it and runs a container."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.daemon import Longshore
from support.images import BUSYBOX, busybox_archive
from support.realdaemon import CONFIG, RealContainerd
from support.served import Served, served


@pytest.fixture
def copies() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.mark.parametrize("whose", ["ours", "real"])
def test_a_container_runs_on_it(whose: str, copies: Served, tmp_path: Path) -> None:
    with ExitStack() as stack:
        config = CONFIG + copies.config("copies")
        daemon: Longshore | RealContainerd
        if whose == "ours":
            daemon = stack.enter_context(Longshore(config=config))
        else:
            daemon = stack.enter_context(RealContainerd(config=config))
        archive = busybox_archive(tmp_path)
        daemon.go_ctr("images", "import", "--snapshotter", "copies", archive)
        assert len(copies.trees()) == 1
        command = ["sh", "-c", "echo written > /file; cat /file /etc/passwd"]
        ran = daemon.go_ctr("run", "--rm", "--snapshotter", "copies", BUSYBOX, "box", *command)
        assert ran.stdout.startswith("written\nroot:")
        listed = daemon.go_ctr("snapshots", "--snapshotter", "copies", "ls").stdout
        assert "Committed" in listed and "box" not in listed
