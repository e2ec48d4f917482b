"""Where the implementations live: ours in this process, ours and Debian's behind a socket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.containerd.scope import Scope
from support import require
from support.daemon import NO_COLLECTION, Longshore
from support.realdaemon import RealContainerd
from support.served import served


@pytest.fixture(scope="module")
def our_address() -> Iterator[Path]:
    require.root()
    with served() as copies, Longshore(config=NO_COLLECTION + copies.config("copies")) as daemon:
        yield daemon.address


@pytest.fixture(scope="module")
def real_address() -> Iterator[Path]:
    require.root()
    require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2")
    with served() as copies, RealContainerd(config=NO_COLLECTION + copies.config("copies")) as daemon:
        yield daemon.address


@pytest.fixture
def scope() -> Scope:
    """A namespace that no other test uses."""
    return Scope(f"c{uuid.uuid4().hex[:10]}")
