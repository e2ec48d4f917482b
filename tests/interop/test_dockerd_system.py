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


CREATE = "/containers/create"
IMAGE: dict[str, Any] = {"Image": BUSYBOX, "Cmd": ["true"]}

# What Debian's dockerd answers, too, to requests that no command of the CLI makes: method, path, body, status, words.
REFUSALS: tuple[tuple[str, str, Any, int, str], ...] = (
    ("POST", CREATE, {}, 400, "config cannot be empty"),
    ("POST", CREATE, IMAGE | {"HostConfig": {"Binds": ["/tmp:x"]}}, 400, "'x' mount path must be absolute"),
    ("POST", CREATE, IMAGE | {"HostConfig": {"Tmpfs": {"t": ""}}}, 400, "'t' mount path must be absolute"),
    ("POST", CREATE, IMAGE | {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}}, 400, '"x"'),
    ("POST", CREATE, IMAGE | {"HostConfig": {"PortBindings": {"99999/tcp": []}}}, 400, '"99999"'),
    ("POST", CREATE, IMAGE | {"HostConfig": {"ExtraHosts": ["a"]}}, 400, 'bad format for add-host: "a"'),
    ("POST", CREATE, IMAGE | {"HostConfig": {"ExtraHosts": ["a:x"]}}, 400, "invalid IP address in add-host"),
    ("POST", CREATE, IMAGE | {"HostConfig": {"Links": ["no:x"]}}, 400, "could not get container for no"),
    ("POST", CREATE, IMAGE | {"HostConfig": {"NetworkMode": "container"}}, 400, "Invalid network mode"),
    ("POST", CREATE, IMAGE | {"HostConfig": {"IOMaximumIOps": 1}}, 400, "maximum IOPs"),
    (
        *("POST", CREATE, IMAGE | {"MacAddress": "02:42:ac:11:00:09", "HostConfig": {"NetworkMode": "host"}}),
        *(400, "mac-address and the network mode"),
    ),
    (
        *("POST", CREATE, IMAGE | {"NetworkingConfig": {"EndpointsConfig": {"bridge": None}}}),
        *(400, "no EndpointSettings for bridge"),
    ),
    (
        *("POST", CREATE, IMAGE | {"NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "none": {}}}}),
        *(400, "cannot be connected to network endpoints: bridge, none"),
    ),
    ("GET", "/containers/json?limit=99999999999999999999", None, 400, "out of range"),
    ("GET", "/containers/json?filters={%22is-task%22:[%22x%22]}", None, 400, "is-task=[x]"),
    ("GET", "/containers/no/logs", None, 400, "you must choose at least one stream"),
    ("POST", "/containers/no/kill?signal=x", None, 400, "Invalid signal: x"),
    ("POST", "/containers/no/rename", None, 400, "Neither old nor new names may be empty"),
    ("POST", "/containers/no/start", {"Binds": []}, 400, "non-empty request body"),
    ("POST", "/containers/no/checkpoints", None, 501, "experimental"),
    ("DELETE", "/containers/no/checkpoints/x", None, 501, "experimental"),
    ("DELETE", "/containers/no?link=1", None, 404, "No such container: no"),
    ("POST", "/commit", None, 400, 'invalid name or ID supplied: ""'),
    ("POST", "/networks/bridge/connect", {}, 400, 'invalid name or ID supplied: ""'),
    ("POST", "/networks/no/connect", {"Container": "no"}, 404, "No such container: no"),
    ("GET", "/networks?filters={%22dangling%22:[%22x%22]}", None, 400, "'dangling'"),
    ("GET", "/networks/bridge?verbose=x", None, 400, "invalid value for verbose"),
    ("POST", "/networks/prune?filters={%22until%22:[%22x%22]}", None, 400, "time or duration"),
    (
        *("POST", "/networks/create", {"Name": "n", "IPAM": {"Config": [{"Subnet": "10.77.0.0/32"}]}}),
        *(500, "No available addresses on this pool"),
    ),
    (
        *("POST", "/networks/create"),
        {"Name": "n", "IPAM": {"Config": [{"Subnet": "10.77.0.0/24"}, {"Subnet": "10.78.0.0/24"}]}},
        *(403, "doesn't support multiple subnets"),
    ),
    ("POST", "/images/no/push", None, 400, "missing X-Registry-Auth"),
    (
        *(
            "POST",
            f"/images/{BUSYBOX}/push?platform={{%22os%22:%22linux%22,%22architecture%22:%22vax%22}}",
            {},
        ),
        *(404, "does not match the specified platform"),
    ),
    ("POST", "/build?isolation=x", None, 400, "Unsupported isolation"),
    ("GET", "/events?since=1&until=99999999999999999999", None, 400, "out of range"),
)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"), REFUSALS, ids=[str(n) for n in range(len(REFUSALS))]
)
def test_refusals(docker: OurDockerd, method: str, path: str, body: Any, status: int, words: str) -> None:
    with connect(docker) as raw:
        got, _, data = raw.ask(method, f"/v1.41{path}", body)
    assert (got, words in json.loads(data)["message"]) == (status, True), data


def test_what_create_keeps(docker: OurDockerd) -> None:
    """Members that another value than their default could get lost of."""
    endpoint = {"IPAMConfig": None, "Aliases": ["alias"]}
    body = IMAGE | {"Entrypoint": [], "WorkingDir": "/a/../b/", "OnBuild": ["RUN x"]}
    body |= {"HostConfig": {"Init": False, "CpuShares": 1, "ConsoleSize": [1]}}
    body |= {"NetworkingConfig": {"EndpointsConfig": {"later": endpoint}}}
    with connect(docker) as raw:
        status, _, data = raw.ask("POST", f"/v1.41{CREATE}?platform=linux", body)
        assert status == 201, data
        made = json.loads(data)["Id"]
        _, _, data = raw.ask("GET", f"/v1.41/containers/{made}/json")
        assert raw.ask("DELETE", f"/v1.41/containers/{made}")[0] == 204
    found = json.loads(data)
    config, host = found["Config"], found["HostConfig"]
    assert (config["Entrypoint"], config["WorkingDir"], config["OnBuild"]) == ([], "/b", ["RUN x"])
    assert (host["Init"], host["CpuShares"], host["ConsoleSize"]) == (False, 1, [1, 0])
    assert (host["KernelMemory"], list(found["NetworkSettings"]["Networks"])) == (0, ["later"])


def test_paths_that_clients_put_together_carelessly(docker: OurDockerd) -> None:
    with connect(docker) as raw:
        status, headers, _ = raw.ask("GET", "//v1.41//containers/json?all=1")
        assert (status, headers["location"]) == (301, "/v1.41/containers/json?all=1")
        assert raw.ask("GET", "/v1.41/containers%2fjson")[0] == 200
        assert raw.ask("GET", "/v1.41/networks/")[0] == 200
        assert raw.ask("OPTIONS", "/v1.41/containers/json")[0] == 200


def test_an_exec_by_the_api(docker: OurDockerd) -> None:
    """A terminal that nobody is attached to; and who starts one as if it had none gets frames."""
    docker("run", "--detach", "--name", "host", BUSYBOX, "sh", "-c", "while :; do sleep 0.1; done")
    try:
        with connect(docker) as raw:

            def exec_of(**body: Any) -> str:
                asked = {"AttachStdout": True, "Tty": True, **body}
                return str(json.loads(raw.ask("POST", "/v1.41/containers/host/exec", asked)[2])["Id"])

            alone = exec_of(Cmd=["sh", "-c", "tty; exit 3"], DetachKeys="ctrl-x")
            assert raw.ask("POST", f"/v1.41/exec/{alone}/start", {"Detach": True, "Tty": True})[0] == 200

            def inspected() -> dict[str, Any]:
                return dict(json.loads(raw.ask("GET", f"/v1.41/exec/{alone}/json")[2]))

            process.eventually(lambda: inspected()["ExitCode"] == 3, what="the exit of an exec")
            assert (inspected()["CanRemove"], inspected()["DetachKeys"]) == (False, "GA==")
            missing = exec_of(Cmd=["no-such-program"], Tty=False)
            assert raw.ask("POST", f"/v1.41/exec/{missing}/start", {"Detach": True})[0] == 400
            framed = exec_of(Cmd=["echo", "a"])
            raw.send(request("POST", f"/v1.41/exec/{framed}/start", {"Tty": False}))
            assert raw.head()[0] == 200
            assert raw.everything() == b"\x01\0\0\0\0\0\0\x03a\r\n"
    finally:
        docker("rm", "--force", "host")


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

    def descriptors() -> list[str]:
        """What dockerd has open."""
        return docker.host.run(["ls", "-l", f"/proc/{docker.pid}/fd"]).stdout.splitlines()

    def settled(most: int) -> None:
        try:
            process.eventually(lambda: len(descriptors()) <= most)
        except AssertionError as error:
            error.add_note("\n".join(descriptors()))
            raise

    def come_and_go() -> None:
        for path in ("logs?stdout=1&follow=1", "stats", "attach"):
            with connect(docker) as raw:
                method, query = ("POST", "?stream=1&stdout=1") if path == "attach" else ("GET", "")
                raw.send(request(method, f"/v1.41/containers/{made}/{path}{query}"))
                raw.head()

    try:
        come_and_go()  # what is opened once, by the first who asks, is no leak
        before = 0
        while before != (before := len(descriptors())):
            pass  # not all that left are noticed yet
        for _ in range(3):
            come_and_go()
        settled(before)
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
