"""What survives when dockerd, containerd or a shim is killed, on our containerd and on Debian's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
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


# Ends when it is told to past dockerd.
TOLD = "until [ -e /go ]; do sleep 0.05; done; exit 5"


def end(docker: OurDockerd, *, told: str, killed: Sequence[str] = ()) -> None:
    """Containers, by the pids of their first processes, whoever is alive to see it; gone when this returns."""
    docker.host.run(["touch", f"/proc/{told}/root/go"])
    docker.host.run(["kill", "-9", *killed])
    pids = {told, *killed}
    eventually(lambda: not pids & set(docker.host.run(["ps", "-eo", "pid="]).stdout.split()))


def states(docker: OurDockerd) -> dict[str, str]:
    listing = docker("ps", "--all", "--format", "{{.Names}} {{.State}}").stdout
    return dict(line.split() for line in listing.splitlines())


def test_kill_9_of_dockerd(docker: OurDockerd) -> None:
    count = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"
    docker("run", "--detach", "--name", "goes-on", BUSYBOX, "sh", "-c", count)
    docker("run", "--detach", "--name", "ends", BUSYBOX, "sh", "-c", TOLD)
    docker("run", "--detach", "--name", "again", "--restart", "always", BUSYBOX, "sleep", "1000")
    docker("run", "--detach", "--name", "goes", "--rm", BUSYBOX, "sleep", "1000")
    docker("run", "--detach", "--name", "stopped", "--restart", "unless-stopped", BUSYBOX, "sleep", "1000")
    docker("stop", "--time", "0", "stopped")
    docker("create", "--name", "made", BUSYBOX, "true")
    pids = {name: docker.inspect(name, ".State.Pid") for name in ("goes-on", "ends", "again", "goes")}
    docker.kill9()
    end(docker, told=pids["ends"], killed=[pids["again"], pids["goes"]])
    docker.start()
    known = {"goes-on": "running", "ends": "exited", "stopped": "exited", "made": "created"}
    eventually(lambda: docker.inspect("again", ".State.Pid") not in ("0", pids["again"]))
    eventually(lambda: states(docker) == known | {"again": "running"})
    assert docker.inspect("goes-on", ".State.Pid") == pids["goes-on"]
    assert docker.inspect("ends", ".State.ExitCode") == "5"
    assert docker("exec", "goes-on", "echo", "here").stdout == "here\n"
    printed = len(docker("logs", "goes-on").stdout.split())
    eventually(lambda: len(docker("logs", "goes-on").stdout.split()) > printed)
    docker("stop", "--time", "0", "goes-on")
    lines = docker("logs", "goes-on").stdout.split()
    assert lines == [str(number) for number in range(len(lines))]


def test_always_starts_with_dockerd(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "box", "--restart", "always", BUSYBOX, "sleep", "1000")
    docker("stop", "--time", "0", "box")
    docker.kill9()
    docker.start()
    eventually(lambda: docker.inspect("box", ".State.Status") == "running")


def test_containerd_goes_and_comes_back(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "ends", BUSYBOX, "sh", "-c", TOLD)
    docker("run", "--detach", "--name", "goes-on", BUSYBOX, "sleep", "1000")
    pid = docker.inspect("ends", ".State.Pid")
    docker.containerd.kill9()
    assert docker.running() == {"ends", "goes-on"}
    end(docker, told=pid)
    docker.containerd.start()
    eventually(lambda: docker.inspect("ends", ".State.Status") == "exited")
    assert docker.inspect("ends", ".State.ExitCode") == "5"
    assert docker("run", "--rm", BUSYBOX, "echo", "after").stdout == "after\n"
    docker("kill", "goes-on")
    eventually(lambda: docker.inspect("goes-on", ".State.Status") == "exited")


def test_kill_9_of_the_zygote(docker: OurDockerd) -> None:
    """What starts loggers, proxies and workers is there again for the next container; the running one has noticed
    nothing.
    """
    docker("run", "--detach", "--name", "box", BUSYBOX, "sleep", "1000")
    for _ in range(2):
        eventually(lambda: len(zygotes(docker)) == 1)  # the one before may not have been reaped yet
        os.kill(zygotes(docker)[0], signal.SIGKILL)
        assert docker("run", "--rm", "--publish", "80", BUSYBOX, "echo", "after").stdout == "after\n"
    docker("cp", "box:/etc/hostname", docker.folder / "hostname")
    assert docker.running() == {"box"}


def zygotes(docker: OurDockerd) -> list[int]:
    """dockerd's children of that name."""
    children = Path(f"/proc/{docker.pid}/task/{docker.pid}/children").read_text().split()
    return [int(pid) for pid in children if name_of(pid) == "zygote\n"]


def name_of(pid: str) -> str:
    """Of a process; an empty one when it has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def test_a_shim_that_dies_while_dockerd_is_dead(docker: OurDockerd) -> None:
    """Nothing is left of its task then but what the journal of our containerd tells."""
    docker("run", "--detach", "--name", "box", BUSYBOX, "sleep", "1000")
    pid = docker.inspect("box", ".State.Pid")
    parent = docker.host.run(["sh", "-c", f"awk '/^PPid/ {{print $2}}' /proc/{pid}/status"]).stdout.strip()
    docker.kill9()
    docker.host.run(["kill", "-9", parent])
    known = isinstance(docker.containerd, Longshore)
    if not known:
        tasks = ("--namespace", "moby", "tasks", "ls", "-q")
        eventually(lambda: docker.containerd.go_ctr(*tasks).stdout == "")
    docker.start()  # ours may not have noticed yet, or be about to tell
    eventually(lambda: docker.inspect("box", ".State.Status") == "exited")
    assert docker.inspect("box", ".State.ExitCode") == ("137" if known else "255")
    docker("start", "box")
    assert docker.running() == {"box"}
