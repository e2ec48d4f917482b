"""The life of containers as the docker CLI sees it: streams, exits, policies, health, and what survives kill -9."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import require, session
from support.ourdockerd import BUSYBOX, PARTS, OurDockerd
from support.process import eventually
from support.rawhttp import Raw, request
from support.terminal import Terminal

pytestmark = [pytest.mark.interop, pytest.mark.root]


@pytest.fixture(scope="module")
def daemon() -> Iterator[OurDockerd]:
    require.root()
    require.go(*PARTS)
    with OurDockerd(cli=session.which_cli()) as docker:
        yield docker


@pytest.fixture
def docker(daemon: OurDockerd) -> Iterator[OurDockerd]:
    yield daemon
    daemon.clean()


def status(docker: OurDockerd, *words: str, **options: object) -> tuple[int, str, str]:
    done = docker(*words, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def actions(docker: OurDockerd, name: str, since: float) -> list[str]:
    """The container's events since then, as action or action=code."""
    listing = docker(
        *("events", "--since", f"{since:.9f}", "--until", f"{time.time():.9f}"),
        *("--filter", f"container={name}", "--format", "{{json .}}"),
    )
    found = []
    for line in listing.stdout.splitlines():
        event = json.loads(line)
        code = event["Actor"]["Attributes"].get("exitCode")
        found.append(event["Action"] if code is None else f"{event['Action']}={code}")
    return found


def output(docker: OurDockerd, words: list[str], data: bytes = b"") -> bytes:
    """What a docker command prints, byte by byte."""
    return subprocess.run(
        [str(docker.cli), *words],
        input=data,
        stdout=subprocess.PIPE,
        env=docker.environment(),
        timeout=60,
        check=True,
    ).stdout


# -- run, and its streams


def test_run_prints_both_streams_and_has_the_exit_code(docker: OurDockerd) -> None:
    script = "echo out; echo err >&2; exit 3"
    assert status(docker, "run", "--rm", BUSYBOX, "sh", "-c", script) == (3, "out\n", "err\n")
    assert docker("ps", "--all", "--quiet").stdout == ""


def test_input_that_ends_before_the_start_is_read_to_its_end(docker: OurDockerd) -> None:
    script = "cat; sleep 0.2; echo end"
    done = docker("run", "--rm", "-i", BUSYBOX, "sh", "-c", script, input="typed\n")
    assert done.stdout == "typed\nend\n"


def test_no_byte_is_lost_in_either_direction(docker: OurDockerd) -> None:
    data = os.urandom(5 << 20)
    assert output(docker, ["run", "--rm", "-i", BUSYBOX, "cat"], data) == data


def test_output_before_the_first_read_is_not_lost(docker: OurDockerd) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    lines = docker("run", "--rm", BUSYBOX, "sh", "-c", script).stdout.splitlines()
    assert lines == [f"line {number}" for number in range(20000)]


def test_a_terminal_is_raw(docker: OurDockerd) -> None:
    command = ["run", "--rm", "--tty", BUSYBOX, "sh", "-c", "tty; echo err >&2"]
    assert output(docker, command) == b"/dev/pts/0\r\nerr\r\n"


def test_a_user_on_a_terminal_who_leaves_and_comes_back(docker: OurDockerd) -> None:
    words: list[str | Path] = [docker.cli, "run", "--interactive", "--tty", "--name", "box", BUSYBOX, "sh"]
    first = Terminal(words, docker.environment())
    first.wait_for_size(24, 80)
    first.resize(40, 100)
    first.wait_for_size(40, 100)
    first.type("\x10\x11")  # ctrl-p, ctrl-q
    assert first.end() == 0 and docker.running() == {"box"}
    again = Terminal([docker.cli, "attach", "box"], docker.environment())
    again.type("echo back; exit 3\n")
    again.until("back\r\n")
    assert again.end() == 3


def test_start_with_attach(docker: OurDockerd) -> None:
    docker("create", "--name", "later", BUSYBOX, "sh", "-c", "echo hello; exit 4")
    assert status(docker, "start", "--attach", "later") == (4, "hello\n", "")
    assert status(docker, "start", "--attach", "later") == (4, "hello\n", "")
    assert docker("logs", "later").stdout == "hello\nhello\n"


# -- failed starts


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [("no-such-program", 127, "executable file not found in $PATH"), ("/etc", 126, "/etc")],
)
def test_a_command_that_cannot_be_run(docker: OurDockerd, command: str, code: int, words: str) -> None:
    result, _, errors = status(docker, "run", "--name", "bad", BUSYBOX, command)
    assert result == code and words in errors
    assert docker.inspect("bad", ".State.Status") == "created"
    assert docker.inspect("bad", ".State.ExitCode") == str(code)
    assert words in docker.inspect("bad", ".State.Error")
    assert docker.containerd.go_ctr("--namespace", "moby", "containers", "ls", "-q").stdout == ""


LEFT = """
ls /run/docker/netns /run/docker/logs /run/docker/network 2>/dev/null
ip -o link | cut -d: -f2 | grep veth
ls /run/d/containers
"""
FAILING = (
    (BUSYBOX, "no-such-program"),  # the runtime
    ("--device", "/dev/no-such", BUSYBOX, "true"),  # the specification
    ("--user", "nobody-knows", BUSYBOX, "true"),
    ("--network", "no-such", BUSYBOX, "true"),  # the network
    ("--publish", "1:1", "--publish", "1:2", BUSYBOX, "true"),  # a port
    ("--workdir", "/etc/passwd", BUSYBOX, "true"),
    ("--volume", "/proc/1/no/such:/x", BUSYBOX, "true"),  # a mount
    ("--sysctl", "kernel.no.such=1", BUSYBOX, "true"),
)


@pytest.mark.parametrize("words", FAILING, ids=" ".join)
def test_a_failed_start_leaves_nothing(docker: OurDockerd, words: tuple[str, ...]) -> None:
    def left() -> str:
        moby = ("--namespace", "moby")
        found = docker.host.run(["sh", "-c", LEFT]).stdout
        for noun in ("containers", "tasks"):
            found += docker.containerd.go_ctr(*moby, noun, "ls", "-q").stdout
        return found + docker.containerd.go_ctr(*moby, "snapshots", "ls").stdout

    docker("run", "--rm", BUSYBOX, "true")  # the first one makes folders
    eventually(lambda: "veth" not in left())  # the kernel takes its time with a namespace
    before = left()
    code, _, errors = status(docker, "run", "--rm", *words)
    assert code in (125, 126, 127) and errors
    assert docker("ps", "--all", "--quiet").stdout == ""
    eventually(lambda: "veth" not in left())
    assert left() == before


# -- exec


def test_exec(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "box", "--env", "A=1", BUSYBOX, "sleep", "1000")
    script = "echo $A $B; echo err >&2; exit 7"
    assert status(docker, "exec", "-e", "B=2", "box", "sh", "-c", script) == (7, "1 2\n", "err\n")
    assert docker("exec", "-i", "box", "cat", input="typed").stdout == "typed"
    assert docker(
        "exec", "--user", "nobody", "--workdir", "/tmp", "box", "sh", "-c", "id -un; pwd"
    ).stdout == ("nobody\n/tmp\n")
    code, _, _ = status(docker, "exec", "box", "no-such-program")
    assert code in (126, 127)
    docker("exec", "--detach", "box", "touch", "/made")
    eventually(lambda: status(docker, "exec", "box", "test", "-e", "/made")[0] == 0)


def test_an_exec_ends_although_its_child_keeps_the_pipe(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "box", BUSYBOX, "sleep", "1000")
    # Its limit is less than the child's life.
    assert docker("exec", "box", "sh", "-c", "sleep 1000 & echo done").stdout == "done\n"


def test_exec_of_what_does_not_run(docker: OurDockerd) -> None:
    docker("create", "--name", "box", BUSYBOX, "true")
    code, _, words = status(docker, "exec", "box", "true")
    assert code == 1 and "is not running" in words
    assert status(docker, "exec", "nobody", "true")[2].strip().endswith("No such container: nobody")


# -- stop, kill, wait


def test_stop_sends_its_signal_and_then_kills(docker: OurDockerd) -> None:
    trap = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.1; done"
    docker("run", "--detach", "--name", "polite", BUSYBOX, "sh", "-c", trap)
    docker("run", "--detach", "--name", "deaf", BUSYBOX, "sleep", "1000")
    eventually(lambda: docker("logs", "polite").stdout == "ready\n")
    docker("stop", "--time", "60", "polite")
    docker("stop", "--time", "1", "deaf")
    assert docker.inspect("polite", ".State.ExitCode") == "5"
    assert docker.inspect("deaf", ".State.ExitCode") == "137"
    assert docker("wait", "polite", "deaf").stdout.split() == ["5", "137"]
    code, _, words = status(docker, "kill", "polite")
    assert code == 1 and "is not running" in words


def test_events_of_a_short_life(docker: OurDockerd) -> None:
    since = time.time()
    id = docker("run", "--detach", "--name", "brief", BUSYBOX, "sleep", "1000").stdout.strip()
    docker("pause", "brief")
    docker("unpause", "brief")
    docker("rename", "brief", "short")
    docker("restart", "--time", "0", "short")
    docker("kill", "short")
    docker("rm", "short")
    found = [action for action in actions(docker, id, since) if action != "kill"]
    expected = "create start pause unpause rename die=137 stop start restart die=137 destroy"
    assert found == expected.split()


@pytest.mark.parametrize("flags", [(), ("--rm",)], ids=" ".join)
def test_wait_begins_before_the_exit(docker: OurDockerd, flags: tuple[str, ...]) -> None:
    """Who waits is told, even if the container is removed at once."""
    docker("run", "--detach", *flags, "--name", "box", BUSYBOX, "sleep", "1000")
    with socket.socket(socket.AF_UNIX) as connection, Raw(connection) as raw:
        connection.connect(str(docker.socket))
        raw.send(request("POST", "/v1.41/containers/box/wait"))
        status, _ = raw.head()  # it waits
        docker("kill", "box")
        assert (status, json.loads(raw.chunk())["StatusCode"]) == (200, 137)
    if flags:
        eventually(lambda: docker("ps", "--all", "--quiet").stdout == "")


def test_rm_needs_force_for_what_runs(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "box", BUSYBOX, "sleep", "1000")
    code, _, words = status(docker, "rm", "box")
    assert code == 1 and "running container" in words
    docker("rm", "--force", "box")
    assert docker("ps", "--all", "--quiet").stdout == ""


def test_a_legacy_link(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "store", BUSYBOX, "sleep", "1000")
    docker("run", "--detach", "--name", "web", "--link", "store:db", BUSYBOX, "sleep", "1000")
    names = ("ps", "--filter", "name=store", "--no-trunc", "--format", "{{.Names}}")
    assert docker(*names).stdout == "store,web/db\n"
    assert docker.inspect("web", ".HostConfig.Links") == "[/store:/web/db]"
    docker("rm", "--link", "/web/db")
    assert docker(*names).stdout == "store\n"
    code, _, words = status(docker, "rm", "--link", "/web/db")
    assert code == 1 and "Cannot get parent" in words


# -- restart policies and health


def test_on_failure_counts(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "box", "--restart", "on-failure:2", BUSYBOX, "false")
    eventually(lambda: docker.inspect("box", ".State.Status") == "exited")
    assert docker.inspect("box", ".RestartCount") == "2"


def test_always_comes_back_until_it_is_stopped(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "box", "--restart", "always", BUSYBOX, "sleep", "0.1")
    eventually(lambda: int(docker.inspect("box", ".RestartCount")) >= 2)
    docker("stop", "--time", "0", "box")
    time.sleep(0.5)
    assert docker.inspect("box", ".State.Status") == "exited"


def test_health(docker: OurDockerd) -> None:
    since = time.time()
    docker(
        *("run", "--detach", "--name", "box", "--health-cmd", "test -e /fine", "--health-interval", "100ms"),
        *("--health-retries", "2", BUSYBOX, "sleep", "1000"),
    )
    eventually(lambda: docker.inspect("box", ".State.Health.Status") == "unhealthy")
    docker("exec", "box", "touch", "/fine")
    eventually(lambda: docker.inspect("box", ".State.Health.Status") == "healthy")
    eventually(lambda: docker.inspect("box", "len .State.Health.Log") == "5")
    found = [action for action in actions(docker, "box", since) if action.startswith("health_status")]
    assert found[:2] == ["health_status: unhealthy", "health_status: healthy"]
    assert docker("ps", "--filter", "health=healthy", "--format", "{{.Names}}").stdout == "box\n"


# -- many


def test_fifty_at_once(docker: OurDockerd) -> None:
    answers: dict[int, tuple[int, str, str]] = {}

    def run(number: int) -> None:
        script = f"echo {number}; exit {number}"
        answers[number] = status(docker, "run", "--rm", BUSYBOX, "sh", "-c", script, timeout=240)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: (number, f"{number}\n", "") for number in range(50)}
    assert docker("ps", "--all", "--quiet").stdout == ""


def test_one_container_under_many_hands(docker: OurDockerd) -> None:
    docker("run", "--detach", "--name", "box", BUSYBOX, "sleep", "1000")
    verbs = [("stop", "-t", "0"), ("start",), ("restart", "-t", "0"), ("pause",), ("unpause",), ("kill",)]
    threads = [
        threading.Thread(target=status, args=(docker, *verb, "box")) for verb in verbs for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    docker("rm", "--force", "box")
    assert docker.containerd.go_ctr("--namespace", "moby", "tasks", "ls", "-q").stdout == ""


def test_a_client_that_dies_leaves_the_container_running(docker: OurDockerd) -> None:
    script = "i=0; while true; do echo $i; i=$((i+1)); done"
    command = [docker.cli, "run", "--name", "loud", BUSYBOX, "sh", "-c", script]
    client = subprocess.Popen(
        [str(word) for word in command],
        env=docker.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert client.stdout is not None and client.stdout.readline() == b"0\n"
    client.kill()
    client.wait()
    client.stdout.close()
    first = docker("logs", "--tail", "1", "loud").stdout
    eventually(lambda: docker("logs", "--tail", "1", "loud").stdout != first)
