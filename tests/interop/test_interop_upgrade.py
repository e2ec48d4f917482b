"""Containers that the last landed version started go on under this one, and back: tasks, execs, events, records.

The landed version is its wheel, built from the commit (`support.landed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.api.types.task.task_pb2 import RUNNING, STOPPED
from support import images, landed, require
from support.daemon import LONGSHORE, Longshore
from support.tasks import Api

pytestmark = [pytest.mark.root, pytest.mark.interop]

SLEEP = ("/bin/sleep", "1000")


@pytest.fixture(scope="module")
def before() -> tuple[list[str], dict[str, str]]:
    try:
        return landed.program()
    except landed.Missing as error:
        pytest.skip(str(error))  # in CI too: a clone without history is no fault of this machine's


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    require.go("busybox")
    return images.busybox_rootfs(tmp_path)


class Turns:
    """One daemon's folder, on which now the landed version runs and now this one."""

    def __init__(self, daemon: Longshore, before: tuple[list[str], dict[str, str]]) -> None:
        self.daemon, self._before = daemon, before

    def change(self, *, to: str, killed: bool) -> None:
        if killed:
            self.daemon.kill9()
        else:
            self.daemon.stop()
        program, environment = self._before if to == "landed" else ([str(LONGSHORE)], {})
        self.daemon.runs(program, environment)
        self.daemon.start()


@pytest.fixture
def turns(before: tuple[list[str], dict[str, str]]) -> Iterator[Turns]:
    program, environment = before
    with Longshore(program=program, environment=environment) as daemon:
        assert "longshore.0.1.0" in daemon.ctr("version").stdout
        yield Turns(daemon, before)


def with_api(daemon: Longshore) -> Api:
    return Api(daemon.address, daemon.namespace)


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_there_and_back(turns: Turns, rootfs: Path, killed: bool) -> None:
    daemon = turns.daemon
    with with_api(daemon) as api:
        pids = {name: api.run(name, rootfs, *SLEEP) for name in ("stays", "leaves", "returns")}
        api.run("ends", rootfs, "/bin/sh", "-c", "exit 7")
        assert api.wait("ends") == 7
    turns.change(to="this", killed=killed)
    with with_api(daemon) as api:
        assert {task.id: task.pid for task in api.list() if task.status == RUNNING} == pids
        assert (api.get("ends").status, api.get("ends").exit_status) == (STOPPED, 7)
        api.exec("stays", "e", "/bin/sh", "-c", "exit 3")
        assert (api.wait("stays", "e"), api.delete_exec("stays", "e")) == (3, 3)
        api.end("leaves")
        assert api.delete("ends") == 7
        api.remove_container("ends")
        api.run("ours", rootfs, *SLEEP)
    turns.change(to="landed", killed=killed)
    with with_api(daemon) as api:
        assert {task.id for task in api.list() if task.status == RUNNING} == {"stays", "returns", "ours"}
        api.exec("ours", "e", "/bin/sh", "-c", "exit 4")
        assert (api.wait("ours", "e"), api.delete_exec("ours", "e")) == (4, 4)
        for name in ("stays", "returns", "ours"):
            api.end(name)


def test_images_and_snapshots(turns: Turns, tmp_path: Path) -> None:
    """What one wrote the other reads: an image unpacked by the landed version runs on this one, and back."""
    daemon = turns.daemon
    daemon.ctr("images", "import", images.busybox_archive(tmp_path))
    turns.change(to="this", killed=True)
    assert daemon.ctr("run", "--rm", images.BUSYBOX, "one", "echo", "new").stdout == "new\n"
    daemon.ctr("images", "tag", images.BUSYBOX, "docker.io/library/again:1")
    turns.change(to="landed", killed=True)
    assert daemon.ctr("run", "--rm", "docker.io/library/again:1", "two", "echo", "old").stdout == "old\n"
