"""Start and delete by the shim itself, on a state directory whose init is the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.linux.cgroup.manager import Cgroup
from longshore.oci import state
from longshore.shim.direct import Direct
from longshore.shim.loop import Loop, Promise, spawn
from longshore.shim.runtime import RuntimeFailure


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Init:
    """A state directory and the descriptors that a waiting init has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in (state.START_FIFO, state.REPORT_FIFO):
            os.mkfifo(directory / name)
        self.start = os.open(directory / state.START_FIFO, os.O_RDWR)
        self.report = os.open(directory / state.REPORT_FIFO, os.O_RDWR)

    def go_on(self, words: bytes = b"") -> None:
        """Read the byte, say something, execute."""
        assert os.read(self.start, 1) == b"0"
        os.write(self.report, words)
        self.end()

    def end(self) -> None:
        os.close(self.start)
        os.close(self.report)


def begin(loop: Loop, init: Init) -> Promise[None]:
    return spawn(Direct(loop, str(init.directory), Cgroup({}, 1)).start())


def test_start_returns_when_init_has_executed(loop: Loop, tmp_path: Path) -> None:
    init = Init(tmp_path)
    started = begin(loop, init)
    assert not started.done
    init.go_on()
    loop.turn()
    started.result()
    assert os.listdir(tmp_path) == []


def test_start_raises_what_init_said(loop: Loop, tmp_path: Path) -> None:
    init = Init(tmp_path)
    started = begin(loop, init)
    init.go_on(b"hook said no")
    loop.turn()
    with pytest.raises(RuntimeFailure, match="OCI runtime start failed: hook said no"):
        started.result()


def test_start_after_the_end_of_init(loop: Loop, tmp_path: Path) -> None:
    init = Init(tmp_path)
    init.end()
    with pytest.raises(RuntimeFailure, match="cannot start a container that has stopped"):
        begin(loop, init).result()


def test_second_start(loop: Loop, tmp_path: Path) -> None:
    init = Init(tmp_path)
    started = begin(loop, init)
    with pytest.raises(RuntimeFailure, match="cannot start an already running container"):
        begin(loop, init).result()
    init.go_on()
    loop.turn()
    started.result()


def test_start_of_a_frozen_container_is_left_to_others(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "freezer.state").write_text("FROZEN\n")
    assert not Direct(loop, "", Cgroup({"freezer": str(tmp_path)}, 1)).startable()


def test_delete_removes_cgroup_and_state(loop: Loop, tmp_path: Path) -> None:
    for name in ("devices", "pids", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "state" / "state.json").touch()
    cgroup = Cgroup({name: str(tmp_path / name) for name in ("pids", "devices", "gone")}, 1)
    assert Direct(loop, str(tmp_path / "state"), cgroup).delete()
    assert os.listdir(tmp_path) == []


def test_delete_touches_nothing_when_the_cgroup_is_in_use(loop: Loop, tmp_path: Path) -> None:
    """Where a worker looks for the processes that are left must still be there for it."""
    (tmp_path / "devices" / "below").mkdir(parents=True)
    (tmp_path / "pids").mkdir()
    (tmp_path / "state").mkdir()
    cgroup = Cgroup({name: str(tmp_path / name) for name in ("pids", "devices")}, 1)
    assert not Direct(loop, str(tmp_path / "state"), cgroup).delete()
    assert sorted(os.listdir(tmp_path)) == ["devices", "pids", "state"]
