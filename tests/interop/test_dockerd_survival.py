"""What survives when dockerd, containerd or a shim is killed, on our containerd and on Debian's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import require, session
from support.daemon import Longshore
from support.ourdockerd import BUSYBOX, PARTS, OurDockerd
from support.process import eventually

pytestmark = [pytest.mark.interop, pytest.mark.root]


@pytest.fixture(scope="module", params=["longshore", "real"])
def daemon(request: pytest.FixtureRequest) -> Iterator[OurDockerd]:
    require.root()
    require.go(*PARTS)
    with OurDockerd(request.param, cli=session.which_cli()) as docker:
        yield docker


@pytest.fixture
def docker(daemon: OurDockerd) -> Iterator[OurDockerd]:
    yield daemon
    daemon.clean()


def test_kill_9_of_dockerd(docker: OurDockerd) -> None:
    count = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"
    docker("run", "--detach", "--name", "goes-on", BUSYBOX, "sh", "-c", count)
    docker("run", "--detach", "--name", "ends", BUSYBOX, "sh", "-c", "sleep 1; exit 5")
    docker("run", "--detach", "--name", "again", "--restart", "always", BUSYBOX, "sh", "-c", "sleep 1")
    docker("run", "--detach", "--name", "goes", "--rm", BUSYBOX, "sh", "-c", "sleep 1")
    docker("run", "--detach", "--name", "stopped", "--restart", "unless-stopped", BUSYBOX, "sleep", "1000")
    docker("stop", "--time", "0", "stopped")
    docker("create", "--name", "made", BUSYBOX, "true")
    pid = docker.inspect("goes-on", ".State.Pid")
    docker.kill9()
    time.sleep(1.5)
    docker.start()
    listing = docker("ps", "--all", "--format", "{{.Names}} {{.State}}").stdout
    states = dict(line.split() for line in listing.splitlines())
    assert states.pop("again") in ("restarting", "running")
    assert states == {"goes-on": "running", "ends": "exited", "stopped": "exited", "made": "created"}
    assert docker.inspect("goes-on", ".State.Pid") == pid
    assert docker.inspect("ends", ".State.ExitCode") == "5"
    eventually(lambda: int(docker.inspect("again", ".RestartCount")) >= 1, 20)
    assert docker("exec", "goes-on", "echo", "here").stdout == "here\n"
    docker("stop", "--time", "0", "goes-on")
    lines = docker("logs", "goes-on").stdout.split()
    assert lines == [str(number) for number in range(len(lines))] and len(lines) > 20


def test_always_starts_with_dockerd(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "box", "--restart", "always", BUSYBOX, "sleep", "1000")
    docker("stop", "--time", "0", "box")
    docker.kill9()
    docker.start()
    eventually(lambda: docker.inspect("box", ".State.Status") == "running", 20)


def test_containerd_goes_and_comes_back(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "ends", BUSYBOX, "sh", "-c", "sleep 1; exit 6")
    docker("run", "--detach", "--name", "goes-on", BUSYBOX, "sleep", "1000")
    docker.containerd.kill9()
    assert docker.running() == {"ends", "goes-on"}
    time.sleep(1.2)
    docker.containerd.start()
    eventually(lambda: docker.inspect("ends", ".State.Status") == "exited", 20)
    assert docker.inspect("ends", ".State.ExitCode") == "6"
    assert docker("run", "--rm", BUSYBOX, "echo", "after").stdout == "after\n"
    docker("kill", "goes-on")
    eventually(lambda: docker.inspect("goes-on", ".State.Status") == "exited", 20)


def test_kill_9_of_the_zygote(docker: OurDockerd) -> None:
    """What starts loggers, proxies and workers is there again for the next container; the running one has noticed
    nothing.
    """
    docker("run", "--detach", "--name", "box", BUSYBOX, "sleep", "1000")
    for _ in range(2):
        children = Path(f"/proc/{docker.pid}/task/{docker.pid}/children").read_text().split()
        (zygote,) = (pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "zygote\n")
        os.kill(int(zygote), signal.SIGKILL)
        assert docker("run", "--rm", "--publish", "80", BUSYBOX, "echo", "after").stdout == "after\n"
    docker("cp", "box:/etc/hostname", docker.folder / "hostname")
    assert docker.running() == {"box"}


def test_a_shim_that_dies_while_dockerd_is_dead(docker: OurDockerd) -> None:
    """Nothing is left of its task then but what the journal of our containerd tells."""
    docker("run", "--detach", "--name", "box", BUSYBOX, "sleep", "1000")
    pid = docker.inspect("box", ".State.Pid")
    parent = docker.host.run(["sh", "-c", f"awk '/^PPid/ {{print $2}}' /proc/{pid}/status"]).stdout.strip()
    docker.kill9()
    docker.host.run(["kill", "-9", parent])
    tasks = ("--namespace", "moby", "tasks", "ls", "-q")
    eventually(lambda: docker.containerd.go_ctr(*tasks).stdout == "", 20)
    docker.start()
    assert docker.inspect("box", ".State.Status") == "exited"
    known = isinstance(docker.containerd, Longshore)
    assert docker.inspect("box", ".State.ExitCode") == ("137" if known else "255")
    docker("start", "box")
    assert docker.running() == {"box"}
