"""What our dockerd tells of itself, by the docker CLI and by raw requests: events, logins, space, many clients."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from support import process, require
from support.ourdockerd import BUSYBOX, PARTS, OurDockerd
from support.rawhttp import Raw, request
from support.registry import PASSWORD, USER, Registry


@pytest.fixture(scope="module")
def docker() -> Iterator[OurDockerd]:
    require.root()
    require.go(*PARTS)
    with OurDockerd() as docker:
        yield docker


def connect(docker: OurDockerd) -> Raw:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(docker.socket))
    return Raw(sock)


def test_events_of_a_life(docker: OurDockerd) -> None:
    began = docker("info", "--format", "{{.SystemTime}}").stdout.strip()
    docker(
        "run", "--rm", "--name", "seen", "--label", "color=red", BUSYBOX, "sh", "-c", "exit 3", check=False
    )
    ended = docker("info", "--format", "{{.SystemTime}}").stdout.strip()

    def told(*filters: str) -> list[dict[str, Any]]:
        words = [word for name in filters for word in ("--filter", name)]
        said = docker(
            "events", "--since", began, "--until", ended, "--format", "{{json .}}", *words
        ).stdout.splitlines()
        return [json.loads(line) for line in said]

    actions = [event["Action"] for event in told("container=seen")]
    assert actions == ["create", "attach", "start", "die", "destroy"]
    (die,) = told("event=die")
    assert (
        die["Actor"]["Attributes"] | {"exitCode": "3", "name": "seen", "color": "red"}
        == (die["Actor"]["Attributes"])
    )
    assert [event["Action"] for event in told("type=network", "network=bridge")] == ["connect", "disconnect"]
    assert told("label=color=blue") == []
    assert [event["Action"] for event in told("label=color=red", "event=start")] == ["start"]


def test_events_while_they_happen(docker: OurDockerd) -> None:
    with connect(docker) as raw:
        raw.send(request("GET", '/v1.41/events?filters={"type":["volume"]}'))
        assert raw.head()[0] == 200
        docker("volume", "create", "told")
        docker("volume", "rm", "told")
        assert [json.loads(raw.chunk())["Action"] for _ in range(2)] == ["create", "destroy"]


def test_login(docker: OurDockerd) -> None:
    with Registry(inside=docker.host, htpasswd=True) as registry:
        name = f"localhost:{registry.port}"
        right = docker("login", "--username", USER, "--password", PASSWORD, name)
        assert "Login Succeeded" in right.stdout
        wrong = docker("login", "--username", USER, "--password", "guess", name, check=False)
        assert wrong.returncode == 1
        assert "401 Unauthorized" in wrong.stderr
    nobody = docker("login", "--username", USER, "--password", PASSWORD, name, check=False)
    assert "connection refused" in nobody.stderr


def test_space(docker: OurDockerd) -> None:
    made = docker("create", "--volume", "space:/v", BUSYBOX, "true").stdout.strip()
    try:
        with connect(docker) as raw:
            _, _, data = raw.ask("GET", "/v1.41/system/df")
        usage = json.loads(data)
        assert [found["Id"] for found in usage["Containers"]] == [made]
        assert [(v["Name"], v["UsageData"]["RefCount"]) for v in usage["Volumes"]] == [("space", 1)]
        (image,) = (found for found in usage["Images"] if BUSYBOX in found["RepoTags"])
        assert image["Containers"] == 1
        assert usage["LayersSize"] >= image["Size"] > 0
    finally:
        docker("rm", "--volumes", made)
        docker("volume", "rm", "space")


def test_two_hundred_silent_clients_hold_nobody_up(docker: OurDockerd) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(docker)).send(b"GET /info HTT")
            stack.enter_context(connect(docker))
        assert docker("run", "--rm", BUSYBOX, "echo", "hi").stdout == "hi\n"


def test_many_clients_at_once(docker: OurDockerd) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(docker)) for _ in range(50)]
        for raw in clients:
            raw.send(request("GET", "/v1.41/containers/json?all=1"))
        assert {raw.answer()[0] for raw in clients} == {200}


def test_who_leaves_a_stream_leaves_nothing(docker: OurDockerd) -> None:
    made = docker("run", "--detach", BUSYBOX, "sh", "-c", "while :; do sleep 0.1; done").stdout.strip()

    def descriptors() -> int:
        with connect(docker) as raw:
            return int(json.loads(raw.ask("GET", "/info")[2])["NFd"])

    try:
        before = descriptors()
        for path in ("logs?stdout=1&follow=1", "stats", "attach"):
            with connect(docker) as raw:
                method, query = ("POST", "?stream=1&stdout=1") if path == "attach" else ("GET", "")
                raw.send(request(method, f"/v1.41/containers/{made}/{path}{query}"))
                raw.head()
        process.eventually(lambda: descriptors() <= before, what="descriptors of streams nobody reads")
        assert docker.inspect(made, ".State.Running") == "true"
    finally:
        docker("rm", "--force", made)


def test_buildkit_is_told_where_to_go(docker: OurDockerd) -> None:
    environment = {**docker.environment(), "DOCKER_BUILDKIT": "1"}
    done = docker("build", "-", check=False, env=environment, input="FROM busybox\n")
    assert done.returncode != 0
    assert "DOCKER_BUILDKIT=0" in done.stderr
    done = subprocess.run(
        ["curl", "--silent", "--unix-socket", docker.socket, "http://x/session", "--request", "POST"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "DOCKER_BUILDKIT=0" in done.stdout


LOOP = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def test_a_stop_stops_containers_when_told_to() -> None:
    with OurDockerd(flags=["--live-restore=false", "--shutdown-timeout=50"]) as docker:
        for name, policy, patience, script in (
            ("once", "no", "30", LOOP),
            ("always", "always", "30", LOOP),
            ("unless", "unless-stopped", "30", LOOP),
            ("stubborn", "no", "1", STUBBORN),
        ):
            docker(
                *("run", "-d", "--name", name, "--restart", policy, "--stop-timeout", patience),
                *(BUSYBOX, "sh", "-c", script),
            )
            process.eventually(lambda name=name: docker("logs", name).stdout == "ready\n")  # type: ignore[misc]
        assert docker.stop() == 0
        docker.start()
        process.eventually(lambda: docker.running() == {"always", "unless"})
        assert docker.inspect("once", ".State.ExitCode") == "5"
        assert docker.inspect("stubborn", ".State.ExitCode") == "137"


def test_containers_survive_a_stop_otherwise() -> None:
    with OurDockerd() as docker:
        docker("run", "-d", "--name", "on", BUSYBOX, "sh", "-c", LOOP)
        pid = docker.inspect("on", ".State.Pid")
        assert docker.stop() == 0
        docker.start()
        assert docker.inspect("on", ".State.Pid") == pid
        assert docker("exec", "on", "echo", "hi").stdout == "hi\n"
