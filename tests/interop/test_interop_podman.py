"""Debian's podman, unchanged, with our runtime as its --runtime: conmon asks of it what Docker's shim doesn't."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.link import link
from support import goparts, require, soak
from support.folders import short_folder
from support.podman import BUSYBOX, PARTS, Podman
from support.process import eventually
from support.terminal import Terminal

RUNTIMES = ["ours", "go"] if soak.SOAK else ["ours"]  # Go's proves the tests


@pytest.fixture(scope="module", params=RUNTIMES)
def shared(request: pytest.FixtureRequest) -> Iterator[Podman]:
    require.root()
    require.go(*PARTS)
    with short_folder() as folder:
        link(str(folder))
        runtime = folder / "runc" if request.param == "ours" else goparts.path("runc")
        with Podman(runtime) as podman:
            yield podman


@pytest.fixture
def podman(shared: Podman) -> Iterator[Podman]:
    yield shared
    shared.clean()


def options(podman: Podman, *flags: str) -> list[str]:
    return ["--cgroup-parent", f"/{podman.cgroup}", *(flags or ("--network", "none"))]


def detach(podman: Podman, name: str, *command: str, flags: tuple[str, ...] = ()) -> None:
    words = command or ("sleep", "1000")
    podman("run", "--detach", "--name", name, *options(podman, *flags), BUSYBOX, *words)


def status(podman: Podman, name: str) -> tuple[str, int]:
    word, code = podman.inspect(name, ".State.Status}} {{.State.ExitCode").split()
    return word, int(code)


def test_run(podman: Podman) -> None:
    script = "cat; echo err >&2; exit 7"
    done = podman(
        *("run", "--rm", "-i", *options(podman), BUSYBOX, "sh", "-c", script), input="in\n", check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("in\n", "err\n", 7)
    assert podman("ps", "--all", "--quiet").stdout == ""


def test_terminal(podman: Podman) -> None:
    words = ["run", "--rm", "-it", *options(podman), BUSYBOX, "sh"]
    opened = Terminal(podman.command(words), podman.environment())
    try:
        opened.type("tty\n")
        opened.until(r"/dev/pts/0\r\n")
        opened.wait_for_size(24, 80)
        opened.type("exit 5\n")
    finally:
        ended = opened.end()
    assert ended == 5


def test_network(podman: Podman) -> None:
    """CNI plugins on the namespace that the runtime joins by its path."""
    script = "ip -4 addr show dev eth0 | grep -c 10.88; cat /etc/resolv.conf > /dev/null && hostname"
    done = podman("run", "--rm", *options(podman, "--hostname", "h1"), BUSYBOX, "sh", "-c", script)
    assert done.stdout == "1\nh1\n"


def test_exec(podman: Podman) -> None:
    detach(podman, "box")
    flags = ("-i", "--user", "65534:65534", "--workdir", "/tmp", "--env", "WORD=hello")
    script = "cat; id -u; pwd; echo $WORD; exit 5"
    done = podman("exec", *flags, "box", "sh", "-c", script, input="in\n", check=False)
    assert (done.stdout, done.returncode) == ("in\n65534\n/tmp\nhello\n", 5), done.stderr
    opened = Terminal(podman.command(["exec", "-it", "box", "sh"]), podman.environment())
    try:
        opened.type("tty\n")
        opened.until(r"/dev/pts/\d+\r\n")
        opened.type("exit 3\n")
    finally:
        ended = opened.end()
    assert ended == 3
    done = podman("exec", "box", "no-such-program", check=False)
    assert done.returncode == 127 and "no-such-program" in done.stderr


def test_life(podman: Podman) -> None:
    """Logs, top, stats, pause, kill, restart, update, stop."""
    flags = ("--memory", "64m", "--network", "none")
    detach(podman, "box", "sh", "-c", "trap 'exit 9' TERM; echo out; sleep 1000 & wait", flags=flags)
    eventually(lambda: podman("logs", "box").stdout == "out\n")
    eventually(lambda: "sleep 1000" in podman("top", "box").stdout)
    (figures,) = json.loads(podman("stats", "--no-stream", "--format", "json", "box").stdout)
    assert figures["pids"] == "2" and figures["mem_usage"].endswith("67.11MB")
    podman("pause", "box")
    assert status(podman, "box")[0] == "paused"
    podman("unpause", "box")
    podman("update", "--cpu-shares", "512", "box")
    place = f"/sys/fs/cgroup/cpu/{podman.cgroup}/libpod-{podman.inspect('box', '.Id')}/cpu.shares"
    assert Path(place).read_text() == "512\n"
    podman("stop", "box")
    assert status(podman, "box") == ("exited", 9)
    podman("start", "box")
    podman("kill", "box")
    eventually(lambda: status(podman, "box") == ("exited", 137))
    podman("restart", "--time", "0", "box")
    assert status(podman, "box")[0] == "running"


def test_health(podman: Podman) -> None:
    detach(podman, "box", flags=("--health-cmd", "test -e /tmp/well", "--health-interval", "disable"))
    assert podman("healthcheck", "run", "box", check=False).returncode == 1
    podman("exec", "box", "touch", "/tmp/well")
    podman("healthcheck", "run", "box")


def test_pod(podman: Podman) -> None:
    """Two containers that share what a third one holds."""
    podman("pod", "create", "--name", "pod", "--cgroup-parent", f"/{podman.cgroup}")
    for name in ("one", "two"):
        podman("run", "--detach", "--pod", "pod", "--name", name, BUSYBOX, "sleep", "1000")
    script = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done"
    seen = {podman("exec", name, "sh", "-c", script).stdout for name in ("one", "two")}
    assert len(seen) == 1
    podman("exec", "--detach", "one", "sh", "-c", "echo hello > /tmp/i; exec httpd -f -p 80 -h /tmp")
    fetch = ("exec", "two", "wget", "-q", "-O", "-", "http://127.0.0.1/i")
    eventually(lambda: podman(*fetch, check=False).stdout == "hello\n")
    podman("pod", "pause", "pod")
    assert status(podman, "two")[0] == "paused"
    podman("pod", "unpause", "pod")
    podman("pod", "kill", "pod")
    eventually(lambda: status(podman, "one") == ("exited", 137))


def test_options_of_run(podman: Podman) -> None:
    flags = ["--read-only", "--tmpfs", "/scratch:size=1m", "--cap-drop", "ALL", "--cap-add", "NET_RAW"]
    flags += [
        "--security-opt",
        "no-new-privileges",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "nproc=100:100",
        "--user",
        "1:2",
        "--init",
    ]
    flags += [
        "--init-path",
        str(goparts.path("docker-init").resolve()),
        "--pids-limit",
        "50",
        "--cgroupns",
        "private",
    ]
    script = """
        ulimit -n; id -u; id -g; touch /root-is-ro 2>/dev/null || echo ro; touch /scratch/x && echo scratch
        grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '; grep pids: /proc/self/cgroup
    """
    done = podman("run", "--rm", *options(podman), *flags, BUSYBOX, "sh", "-c", script)
    assert [line for line in done.stdout.splitlines() if "pids" not in line] == [
        *("100", "1", "2", "ro", "scratch", "CapBnd: 0000000000002000", "NoNewPrivs: 1", "Seccomp: 2"),
    ]
    assert ":pids:/\n" in done.stdout


def test_what_cannot_run(podman: Podman) -> None:
    missing = podman("run", "--rm", *options(podman), BUSYBOX, "no-such-program", check=False)
    assert missing.returncode == 127 and "no-such-program" in missing.stderr
    denied = podman("run", "--rm", *options(podman), BUSYBOX, "/etc/passwd", check=False)
    assert denied.returncode == 126 and "permission denied" in denied.stderr.lower()
    assert podman("ps", "--all", "--quiet").stdout == ""


def test_many_at_once(podman: Podman) -> None:
    count = soak.times(6, 50)
    started = [
        subprocess.Popen(
            podman.command(
                ["run", "--rm", *options(podman), BUSYBOX, "sh", "-c", f"echo {number}; exit {number}"]
            ),
            env=podman.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for number, process in enumerate(started):
        out, err = process.communicate(timeout=120)
        assert (out, process.returncode) == (f"{number}\n", number), err
