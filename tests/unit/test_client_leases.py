"""Whose lease it is: the label that names a process, and who is told to be gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from longshore.client.leases import HOLDER_LABEL, Lease, holder, is_abandoned

BOOT, NAMESPACE, PID, STARTED = holder().split("/")


@pytest.mark.parametrize(
    ("label", "abandoned"),
    [
        (holder(), False),
        (f"{BOOT}/{NAMESPACE}/{PID}/{int(STARTED) + 1}", True),  # the pid is somebody else's by now
        (f"another-boot/{NAMESPACE}/{PID}/{STARTED}", True),
        (f"{BOOT}/1/{PID}/{STARTED}", False),  # in a pid namespace that we don't see
        ("nonsense", False),
        (f"{BOOT}/{NAMESPACE}//{STARTED}", False),
    ],
    ids=("lives", "pid-of-another", "before-the-boot", "unseen-namespace", "nonsense", "no-pid"),
)
def test_who_is_gone(label: str, abandoned: bool) -> None:
    assert is_abandoned(Lease(labels={HOLDER_LABEL: label})) is abandoned


def test_a_lease_of_nobody() -> None:
    assert not is_abandoned(Lease())


def test_a_process_that_was() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        label = holder(child.pid)
        assert not is_abandoned(Lease(labels={HOLDER_LABEL: label}))
        child.communicate(b"\n")
    assert is_abandoned(Lease(labels={HOLDER_LABEL: label}))
    assert holder(os.getpid()) == holder()
