"""Where the implementations live: ours in this process, ours and Debian's behind a socket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.containerd.scope import Scope
from support import require
from support.daemon import Longshore
from support.realdaemon import RealContainerd

# A collection in the middle of a test would take what no lease holds.
NO_COLLECTION = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "1h"
schedule_delay = "1h"
"""


@pytest.fixture(scope="module")
def our_address() -> Iterator[Path]:
    require.root()
    with Longshore() as daemon:
        yield daemon.address


@pytest.fixture(scope="module")
def real_address() -> Iterator[Path]:
    require.root()
    require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2")
    with RealContainerd(config=NO_COLLECTION) as daemon:
        yield daemon.address


@pytest.fixture
def scope() -> Scope:
    """A namespace that no other test uses."""
    return Scope(f"c{uuid.uuid4().hex[:10]}")
