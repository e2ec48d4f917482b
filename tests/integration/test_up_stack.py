"""`longshore up`: comes up, says where, ends when asked, and containers go on unless told otherwise."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import goparts, host, images, require
from support.daemon import LONGSHORE
from support.dockerd import own_etc
from support.folders import short_folder
from support.leaks import Watch

NAMESPACE = f"t-up-{os.getpid()}"
DEADLINE = 90  # seconds


@pytest.fixture
def folder() -> Iterator[Path]:
    require.go("busybox")
    with short_folder() as folder:
        watch = Watch([folder], [NAMESPACE])
        yield folder
        watch.check()


class Up:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("export CONTAINERD_ADDRESS="), (line, process.stderr and process.stderr.read())
        self.address = line.strip().partition("=")[2]

    def ctr(self, *words: str | Path) -> str:
        command = [LONGSHORE, "ctr", "-a", self.address, "-n", NAMESPACE, *words]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, said


@contextmanager
def up(folder: Path, *flags: str) -> Iterator[Up]:
    command = [str(LONGSHORE), "up", "--no-dockerd", "--dir", str(folder), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Up(process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=DEADLINE)


def test_containers_survive_and_are_stopped_when_told(folder: Path) -> None:
    archive = images.busybox_archive(folder)
    script = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    with up(folder) as stack:
        stack.ctr("images", "import", archive)
        stack.ctr("run", "-d", images.BUSYBOX, "c1", "sh", "-c", script)
        assert stack.stop(signal.SIGINT)[0] == 0
        assert not os.path.exists(stack.address)
    with up(folder, "--stop-containers") as stack:
        assert "RUNNING" in stack.ctr("tasks", "ls")
        status, said = stack.stop(signal.SIGTERM)
        assert status == 0 and "stopping 1 container" in said
    with up(folder) as stack:
        assert stack.ctr("tasks", "ls", "-q") == ""
        assert stack.ctr("containers", "ls", "-q") == "c1\n"
        stack.ctr("containers", "rm", "c1")


def test_a_second_one_on_the_same_folder_is_told_why_not(folder: Path) -> None:
    with up(folder):
        text = refusal(folder)
        assert re.fullmatch(
            rf"longshore up: {folder} is in use by another containerd \(pid \d+\):"
            r" stop it, or give another --dir\n",
            text,
        )


def test_a_file_where_the_folder_should_be(folder: Path) -> None:
    (folder / "file").write_text("precious")
    assert refusal(folder / "file").endswith("a file is in its place: give another --dir\n")
    assert (folder / "file").read_text() == "precious"


def test_why_a_daemon_ended_is_told_in_its_own_lines(folder: Path) -> None:
    (folder / "containerd.log").write_text("of an earlier one\n")
    (folder / "bad.toml").write_text("version = 99\n")
    text = refusal(folder, "--config", str(folder / "bad.toml"))
    assert "containerd ended with 1:\ncontainerd: " in text and "of an earlier one" not in text


def refusal(folder: Path, *flags: str) -> str:
    """What it says when it can't come up."""
    done = subprocess.run(
        [LONGSHORE, "up", "--no-dockerd", "--dir", folder, *flags],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    return done.stderr


def test_a_long_folder(folder: Path) -> None:
    deep = folder / ("d" * 120)
    with up(deep) as stack:
        assert len(stack.address) < 100
        assert "Server:" in stack.ctr("version")


def test_a_daemon_that_dies_ends_it(folder: Path) -> None:
    with up(folder) as stack:
        with open(f"/proc/{stack.process.pid}/task/{stack.process.pid}/children") as children:
            daemon = int(children.read().split()[0])
        os.kill(daemon, signal.SIGKILL)
        _, said = stack.process.communicate(timeout=DEADLINE)
        assert stack.process.returncode == 1 and "containerd ended with -9" in said


def test_dockerd_beside_it(folder: Path) -> None:
    """On a private host: dockerd makes a bridge and rules."""
    (docker,) = require.go("docker")
    for part in ("iptables", "ip6tables", "iptables-restore", "ip6tables-restore"):
        require.go(part)
    archive = images.busybox_archive(folder)
    with host.PrivateHost(own_etc(folder)) as machine, stack_with_dockerd(machine, folder) as stack:
        stack.ctr("-n", "moby", "images", "import", archive)
        environment = {**goparts.environment(), "DOCKER_HOST": stack.docker, "DOCKER_CONFIG": str(folder)}

        def cli(*words: str) -> str:
            done = subprocess.run(
                [docker, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert cli("run", "--rm", images.BUSYBOX, "echo", "hi") == "hi\n"
        cli("run", "-d", "--restart", "always", "--name", "c1", images.BUSYBOX, "sh", "-c", TRAPPING)
        assert stack.stop(signal.SIGINT)[0] == 0


TRAPPING = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


class Both(Up):
    def __init__(self, process: subprocess.Popen[str], machine: host.PrivateHost) -> None:
        super().__init__(process)
        assert process.stdout is not None
        self.docker = process.stdout.readline().strip().removeprefix("export DOCKER_HOST=")
        self._machine = machine

    def ctr(self, *words: str | Path) -> str:
        done = self._machine.run([LONGSHORE, "ctr", "-a", self.address, *words])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self, number: int) -> tuple[int, str]:
        os.kill(host.child_of(self.process.pid), number)
        _, said = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, said


@contextmanager
def stack_with_dockerd(machine: host.PrivateHost, folder: Path) -> Iterator[Both]:
    flags = ("--", "--cgroup-parent", f"/{NAMESPACE}")
    command: list[str | Path] = [LONGSHORE, "up", "--dir", folder / "s", "--stop-containers", *flags]
    with subprocess.Popen(
        machine.inside(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=goparts.environment(),
    ) as process:
        try:
            yield Both(process, machine)
        finally:
            if process.poll() is None:
                os.kill(host.child_of(process.pid), signal.SIGTERM)
                process.communicate(timeout=DEADLINE)
