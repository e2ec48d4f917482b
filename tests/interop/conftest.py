"""Daemons that whole files share: the same test runs on Debian's containerd, which proves the test, and on ours."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TypeAlias

import pytest

from support import images, require
from support.daemon import COLLECTION_WHEN_ASKED, Longshore
from support.folders import short_folder
from support.realdaemon import RealContainerd

Daemon: TypeAlias = RealContainerd | Longshore


@pytest.fixture(scope="module", params=["real", "longshore"])
def containerd(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A running daemon with busybox imported, on which no collection comes between two commands of a test."""
    require.root()
    require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2", "busybox")
    kind = RealContainerd if request.param == "real" else Longshore
    with kind(config=COLLECTION_WHEN_ASKED) as daemon, short_folder() as folder:
        daemon.go_ctr("images", "import", images.busybox_archive(folder))
        yield daemon


@pytest.fixture
def name() -> str:
    """A container id of this test's own."""
    return f"c{uuid.uuid4().hex[:6]}"
