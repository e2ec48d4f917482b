"""`make test` in several processes: which files begin, and which tests must be alone.

A file's tests share daemons, so one worker runs a whole file, in its own order
(pytest-xdist's loadfile). What takes longest begins: a long file that began
last would be waited for by the other workers. While a test marked `alone` runs
(one that measures, or looks at what all tests share) the other workers wait
between two tests.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

# Seconds that files took, run by themselves. Those that aren't here take few, and keep their places.
LONG = {
    "test_interop_our_ctr": 230,
    "test_dockerd_session": 130,
    "test_dockerd_crash": 120,
    "test_tasks_lives": 75,
    "test_registry_pull": 74,
    "test_interop_dockerd": 72,
    "test_dockerd_clients": 70,
    "test_dockerd_hijack": 50,
    "test_ctr_table": 68,
    "test_style": 60,
    "test_dockerd_stack": 45,
    "test_shim_life": 40,
    "test_interop_seams": 38,
    "test_containerd_daemon": 26,
    "test_interop_view": 24,
}


def number() -> int:
    """Of this worker; 0 too where there is one process."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def longest_first(items: list[pytest.Item]) -> None:
    """Sort in place; within a file, and among files that aren't in the table, the order stays."""
    items.sort(key=lambda item: -LONG.get(item.path.stem, 0))


class Turns:
    """Locks that all workers of a run share: many tests at a time, or one that is alone.

    Who wants to be alone holds the turnstile while it waits for the running
    tests to end, so that no new one begins; flock by itself knows no order.
    """

    def __init__(self, folder: Path) -> None:
        self._turnstile: IO[bytes] = open(folder / "turnstile", "wb")  # noqa: SIM115
        self._running: IO[bytes] = open(folder / "running", "wb")  # noqa: SIM115

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        fcntl.flock(self._turnstile, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._running, fcntl.LOCK_UN)
