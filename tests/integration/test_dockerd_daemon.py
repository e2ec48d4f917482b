"""dockerd as a process: what it starts, whom it refuses, what it reads again, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support import goparts, host, leaks, process, require
from support.daemon import LONGSHORE
from support.folders import short_folder
from support.ourdockerd import PARTS
from support.rawhttp import Raw

DEADLINE = 60  # seconds

# Opens a socket as systemd would, and becomes dockerd.
ACTIVATE = """
import os, socket, sys
place, *command = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
sock.bind(place)
sock.listen()
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="docker.socket")
os.execv(command[0], command)
"""


class Machine:
    """A private host with a folder, and dockerds on it that have no containerd but their own."""

    def __init__(self, machine: host.PrivateHost, folder: Path) -> None:
        self.host, self.folder = machine, folder
        self.socket, self.log, self.config = folder / "d.sock", folder / "log", folder / "daemon.json"
        self.config.write_text("{}")

    def command(self, *flags: str | Path) -> list[str | Path]:
        roots: list[str | Path] = ["--data-root", self.folder / "root", "--exec-root", self.folder / "run"]
        return [LONGSHORE, "dockerd", *roots, "--pidfile", self.folder / "pid", *self._file(), *flags]

    def _file(self) -> Sequence[str | Path]:
        return ["--config-file", self.config]

    def start(
        self, *flags: str | Path, before: Sequence[str | Path] = (), door: Path | None = None
    ) -> subprocess.Popen[bytes]:
        if not before:
            flags = ("-H", f"unix://{self.socket}", *flags)
        with open(self.log, "ab") as log:
            started = self.host.popen(
                [*before, *self.command(*flags)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=goparts.environment(),
            )
        process.wait_for_socket(started, door or self.socket, self.log)
        assert self.ask("GET", "/_ping", door=door)[0] == 200
        return started

    def run(self, *flags: str | Path) -> subprocess.CompletedProcess[str]:
        return self.host.run(self.command(*flags), env=goparts.environment())

    def ask(self, method: str, path: str, body: Any = None, door: Path | None = None) -> tuple[int, Any]:
        with self.connect(door) as raw:
            status, headers, data = raw.ask(method, path, body)
        return status, json.loads(data) if "json" in headers.get("content-type", "") else data

    def connect(self, door: Path | None = None) -> Raw:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(door or self.socket))
        return Raw(sock)


def stop(started: subprocess.Popen[bytes]) -> int:
    return host.stop(started, host.child_of(started.pid), DEADLINE)


def kill(started: subprocess.Popen[bytes]) -> None:
    os.kill(host.child_of(started.pid), signal.SIGKILL)
    started.wait(DEADLINE)


@pytest.fixture
def machine() -> Iterator[Machine]:
    require.go(*PARTS)
    with short_folder("dd-") as folder:
        watch = leaks.Watch([folder])
        with host.PrivateHost() as private:
            yield Machine(private, folder)
        watch.check()


def test_a_containerd_of_its_own_is_supervised(machine: Machine) -> None:
    started = machine.start()
    try:
        address = machine.ask("GET", "/info")[1]["Containerd"]["Address"]
        assert address == str(machine.folder / "run/containerd/containerd.sock")
        assert machine.ask("GET", "/version")[1]["Components"][1]["Version"].startswith("2.")
        lock = machine.folder / "root/containerd/longshore.lock"
        first = lock.read_text()
        machine.host.run(["kill", "-9", first.strip()])
        process.eventually(lambda: lock.read_text().strip() not in ("", first.strip()))
        process.eventually(lambda: machine.ask("GET", "/images/json") == (200, []))
    finally:
        assert stop(started) == 0
    assert not machine.socket.exists()
    assert not (machine.folder / "pid").exists()
    process.eventually(lambda: "dockerd" not in machine.host.run(["ps", "ax"]).stdout)


def test_a_killed_one_is_followed_by_another(machine: Machine) -> None:
    kill(machine.start())
    assert (machine.folder / "pid").exists() and machine.socket.exists()
    started = machine.start()
    assert "containerd is running already" in process.tail(machine.log)
    assert stop(started) == 0
    process.eventually(lambda: "containerd" not in machine.host.run(["ps", "ax"]).stdout)


def test_a_second_one_is_told_why_not(machine: Machine) -> None:
    started = machine.start()
    try:
        done = machine.run("-H", f"unix://{machine.folder}/other")
        assert done.returncode == 1
        assert "is in use by another dockerd" in done.stderr and "Traceback" not in done.stderr
        flags: list[str | Path] = [
            "--data-root",
            machine.folder / "r2",
            "--exec-root",
            machine.folder / "e2",
            "--pidfile",
            "",
        ]
        done = machine.host.run(
            [LONGSHORE, "dockerd", *flags, "-H", f"unix://{machine.socket}"], env=goparts.environment()
        )
        assert done.returncode == 1
        assert "another process is listening" in done.stderr
        assert machine.ask("GET", "/_ping")[0] == 200
    finally:
        stop(started)


@pytest.mark.parametrize(
    ("flags", "words"),
    (
        (["--nonsense"], "unrecognized arguments"),
        (["--config-file", "/no/such/file"], "No such file"),
        (["--label", "x"], "bad attribute format: x"),
        (["-H", "npipe://x"], "invalid bind address"),
        (["--tlsverify", "-H", "tcp://127.0.0.1:0"], "could not load the X509 files"),
    ),
)
def test_refusals_are_one_line(machine: Machine, flags: list[str], words: str) -> None:
    done = machine.host.run(
        [*machine.command(), *(flags if "-H" in flags else [*flags, "-H", f"unix://{machine.socket}"])],
        env=goparts.environment(),
    )
    assert done.returncode != 0
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not machine.socket.exists()


def test_validate(machine: Machine) -> None:
    assert "configuration OK" in machine.run("--validate").stderr
    machine.config.write_text('{"debgu": true}')
    done = machine.run("--validate")
    assert (done.returncode, "don't match any configuration option: debgu" in done.stderr) == (1, True)


def test_sighup(machine: Machine) -> None:
    started = machine.start()
    try:
        with machine.connect() as raw:
            raw.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            raw.head()
            machine.config.write_text(json.dumps({"labels": ["a=b"], "debug": True}))
            os.kill(host.child_of(started.pid), signal.SIGHUP)
            event = json.loads(raw.chunk())
        assert (event["Type"], event["Action"]) == ("daemon", "reload")
        assert event["Actor"]["Attributes"]["labels"] == '["a=b"]'
        info = machine.ask("GET", "/info")[1]
        assert (info["Labels"], info["Debug"], event["Actor"]["ID"]) == (["a=b"], True, info["ID"])
        machine.config.write_text("nonsense")
        os.kill(host.child_of(started.pid), signal.SIGHUP)
        process.eventually(lambda: "was not reloaded" in process.tail(machine.log))
        assert machine.ask("GET", "/info")[1]["Labels"] == ["a=b"]
    finally:
        assert stop(started) == 0


def test_events_are_there_after_a_restart_and_a_stop_ends_streams(machine: Machine) -> None:
    started = machine.start()
    assert machine.ask("POST", "/volumes/create", {"Name": "vol"})[0] == 201
    with machine.connect() as raw:
        raw.send(b"GET /events?since=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        raw.head()
        assert json.loads(raw.chunk())["Type"] == "volume"
        assert stop(started) == 0
        raw.everything()
    started = machine.start()
    try:
        path = "/events?since=1&until=0.1&filters=" + '{"volume":["vol"]}'
        assert machine.ask("GET", path)[0] == 400  # since after until
        with machine.connect() as raw:
            now = int(time.time()) + 1  # behind the event, however fast the start was
            _, _, data = raw.ask("GET", f'/events?since=1&until={now}&filters={{"type":{{"volume":true}}}}')
        assert [json.loads(line)["Action"] for line in data.splitlines()] == ["create"]
    finally:
        stop(started)


def test_socket_activation(machine: Machine) -> None:
    door = machine.folder / "activated"
    started = machine.start("-H", "fd://", before=[sys.executable, "-c", ACTIVATE, door], door=door)
    try:
        assert machine.ask("GET", "/_ping", door=door) == (200, b"OK")
    finally:
        assert stop(started) == 0
    assert door.exists()  # it is systemd's


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    (
        ("GET", "/swarm", 503, "This node is not a swarm manager"),
        ("GET", "/services", 503, "This node is not a swarm manager"),
        ("POST", "/swarm/leave", 503, "This node is not part of a swarm"),
        ("GET", "/plugins/x/json", 404, 'plugin "x" not found'),
        ("POST", "/session", 501, "DOCKER_BUILDKIT=0"),
        ("POST", "/v1.39/grpc", 501, "DOCKER_BUILDKIT=0"),
        ("GET", "/system/df?type=x", 400, "unknown object type: x"),
        ("GET", "/volumes?filters={%22x%22:[]}", 400, "invalid filter 'x'"),
        ("GET", "/events?since=yesterday", 400, "failed to parse value as time or duration"),
    ),
)
def test_what_it_has_not(shared: Machine, method: str, path: str, status: int, words: str) -> None:
    answer = shared.ask(method, path)
    assert (answer[0], words in answer[1]["message"]) == (status, True)


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    require.go(*PARTS)
    with short_folder("dd-") as folder, host.PrivateHost() as private:
        machine = Machine(private, folder)
        started = machine.start()
        yield machine
        stop(started)


def test_what_it_is(shared: Machine) -> None:
    status, info = shared.ask("GET", "/v1.41/info")
    assert (status, info["Swarm"]["LocalNodeState"]) == (200, "inactive")
    assert info["NCPU"] == len(os.sched_getaffinity(0))
    with shared.connect() as raw:
        raw.send(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers = raw.head()
    assert (status, headers["builder-version"], headers["api-version"]) == (200, "1", "1.48")
    assert shared.ask("GET", "/plugins") == (200, [])
    assert shared.ask("GET", "/system/df")[1]["Containers"] == []
    assert shared.ask("GET", "/system/df?type=volume")[1]["Images"] is None


def test_a_stop_while_it_starts(machine: Machine) -> None:
    flags: list[str | Path] = ["--containerd", machine.folder / "nobody", "-H", f"unix://{machine.socket}"]
    with open(machine.log, "ab") as log:
        started = machine.host.popen(machine.command(*flags), stdout=log, stderr=log)
    process.eventually(machine.socket.exists)
    assert stop(started) == 0
    assert "shutdown complete" in process.tail(machine.log)
    assert not machine.socket.exists()
