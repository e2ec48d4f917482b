"""Markers, what a machine may lack, and the search for leaks around every test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support import gostate, leaks, parallel, require, soak
from support.folders import short_folder

# The same examples at every run: a test that fails now and then is no gate. `make soak` looks further.
# Nor one that measures how long the machine takes to think of them.
UNTIMED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("test", derandomize=True, database=None, **UNTIMED)
settings.register_profile("soak", max_examples=2000, database=None, **UNTIMED)
settings.load_profile("soak" if soak.SOAK else "test")

OWN_FOLDER = pytest.StashKey[str]()
TURNS = pytest.StashKey[parallel.Turns]()


def pytest_configure(config: pytest.Config) -> None:
    """End in order, and leave no folders.

    SIGTERM (what `timeout` and CI send) ends the run as Ctrl-C does: with the
    fixtures' clean-up. tmp_path lies in a folder of this run alone: pytest's
    own habit is to leave the last three behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not config.option.basetemp:
        folder = tempfile.mkdtemp(prefix="lt-", dir="/tmp")
        config.option.basetemp = f"{folder}/t"
        config.stash[OWN_FOLDER] = folder
    if parallel.is_worker():  # its basetemp lies in the one of the run
        config.stash[TURNS] = parallel.Turns(Path(config.option.basetemp).parent)


@pytest.hookimpl(trylast=True)  # workers have ended then
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """LONGSHORE_KEEP=1 keeps them, to be looked at."""
    folder = session.config.stash.get(OWN_FOLDER, "")
    if not folder:
        return
    gostate.remove_folders()
    if not os.environ.get("LONGSHORE_KEEP"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    with turns.turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Data may hold the time of day, and workers must agree on names."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) and len(val) > 20 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder is a marker: integration/ is `root`, interop/ is `interop`."""
    if parallel.is_worker():
        parallel.longest_first(items)
    for item in items:
        parts = item.path.parts
        if "integration" in parts:
            item.add_marker("root")
        if "interop" in parts:
            item.add_marker("interop")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") or item.get_closest_marker("interop"):
        require.root()
    if item.get_closest_marker("interop"):
        require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2", "busybox")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """The last lines say what was left out, and why."""
    yield
    left_out = Counter(_reason(report) for report in terminalreporter.getreports("skipped"))
    for reason, count in sorted(left_out.items()):
        tests = "1 test" if count == 1 else f"{count} tests"
        terminalreporter.write_line(f"left out: {tests}, because {reason}")


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary folder with a short path, for Unix sockets."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose temporary folders are still mounted on, or used by a process, when it ends."""
    names = [name for name in ("tmp_path", "short_tmp") if name in request.fixturenames]
    folders = [Path(request.getfixturevalue(name)) for name in names]
    yield
    if folders:
        leaks.Watch(folders).check()
