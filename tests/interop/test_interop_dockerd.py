"""Debian's dockerd, unchanged: on our containerd, and with our runc below its own containerd.

What is asked of dockerd is what it needs containerd, shim and runtime for; its
images and volumes are its own business.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from longshore.link import link
from support import goparts, require, soak
from support.daemon import Longshore
from support.dockerd import BUSYBOX, PARTS, Dockerd
from support.folders import short_folder
from support.process import eventually
from support.terminal import Terminal

NO_NETWORK = ("--network", "none")  # spares dockerd's bridge where a test doesn't need it


@contextmanager
def our_runc_below_gos() -> Iterator[Dockerd]:
    with short_folder() as folder:
        link(str(folder))
        flags = ["--add-runtime", f"ours={folder / 'runc'}", "--default-runtime", "ours"]
        with Dockerd("real", flags=flags) as docker:
            yield docker


STACKS: dict[str, Callable[[], AbstractContextManager[Dockerd]]] = {
    "longshore": Dockerd,
    "our-runc": our_runc_below_gos,
    "all-gos": lambda: Dockerd("real"),  # the proof of the tests themselves
}


def on(*stacks: str) -> pytest.MarkDecorator:
    """Another choice of stacks for a test than all in soak and the two with parts of ours otherwise."""
    return pytest.mark.parametrize("shared", stacks, indirect=True, scope="module")


# Where a test is mostly about dockerd, or takes long, the second stack is left to soak.
ONE_STACK = on(*(STACKS if soak.SOAK else ["longshore"]))


@pytest.fixture(scope="module", params=STACKS if soak.SOAK else ["longshore", "our-runc"])
def shared(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    require.root()
    require.go(*PARTS)
    with STACKS[request.param]() as docker:
        yield docker


@pytest.fixture
def docker(shared: Dockerd) -> Iterator[Dockerd]:
    yield shared
    shared.clean()


def detach(docker: Dockerd, name: str, *command: str, flags: tuple[str, ...] = NO_NETWORK) -> None:
    docker("run", "--detach", "--name", name, *flags, BUSYBOX, *(command or ("sleep", "1000")))


def state(docker: Dockerd, name: str) -> tuple[str, int]:
    """Status and exit code."""
    status, code = docker("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name).stdout.split()
    return status, int(code)


def logs(docker: Dockerd, name: str) -> tuple[str, str]:
    done = docker("logs", name)
    return done.stdout, done.stderr


def has_new_pid(docker: Dockerd, name: str, before: str) -> bool:
    return docker.inspect(name, ".State.Pid") not in ("0", before)


def kill_inside(docker: Dockerd, name: str, number: int = signal.SIGKILL) -> None:
    """Signal a container's first process past dockerd, which then learns of an exit that it did not ask for."""
    pid = docker.inspect(name, ".State.Pid")
    assert docker.host.run(["kill", f"-{int(number)}", pid]).returncode == 0


def terminal(docker: Dockerd, *words: str) -> Terminal:
    return Terminal([goparts.path("docker"), *words], docker.environment())


def test_run(docker: Dockerd) -> None:
    done = docker(
        *("run", "--rm", "-i", BUSYBOX, "sh", "-c", "cat; echo err >&2; exit 7"), input="in\n", check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("in\n", "err\n", 7)
    assert docker("ps", "--all", "--quiet").stdout == ""


@ONE_STACK
def test_a_lot_of_output(docker: Dockerd) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    done = docker("run", "--rm", *NO_NETWORK, BUSYBOX, "sh", "-c", script)
    assert done.stdout.splitlines() == [f"line {number}" for number in range(20000)]


def test_terminal(docker: Dockerd) -> None:
    opened = terminal(docker, "run", "--rm", "-it", *NO_NETWORK, BUSYBOX)
    try:
        opened.type("tty; echo $TERM\n")
        opened.until(r"/dev/pts/0\r\nxterm\r\n")
        opened.wait_for_size(24, 80)
        opened.resize(50, 132)
        opened.wait_for_size(50, 132)
        opened.type("exit 5\n")
    finally:
        status = opened.end()
    assert status == 5


def test_detached(docker: Dockerd) -> None:
    """-d, logs, top, and a signal's exit status."""
    detach(docker, "box", "sh", "-c", "echo out; echo err >&2; exec sleep 1000")
    eventually(lambda: logs(docker, "box") == ("out\n", "err\n"))
    assert state(docker, "box") == ("running", 0)
    eventually(lambda: "sleep 1000" in docker("top", "box").stdout)
    docker("kill", "box")
    eventually(lambda: state(docker, "box") == ("exited", 137))


def test_exec(docker: Dockerd) -> None:
    detach(docker, "box")
    script = "cat; id -u; pwd; echo $WORD; exit 5"
    flags = ("-i", "--user", "65534:65534", "--workdir", "/tmp", "--env", "WORD=hello")
    done = docker("exec", *flags, "box", "sh", "-c", script, input="in\n", check=False)
    assert (done.stdout, done.returncode) == ("in\n65534\n/tmp\nhello\n", 5), done.stderr
    docker("exec", "--detach", "box", "sh", "-c", "echo done > /tmp/d; sleep 999")
    eventually(lambda: docker("exec", "box", "cat", "/tmp/d", check=False).stdout == "done\n")
    eventually(lambda: "sleep 999" in docker("top", "box").stdout)
    done = docker("exec", "box", "no-such-program", check=False)
    assert done.returncode in (126, 127) and "no-such-program" in done.stdout + done.stderr


def test_exec_on_a_terminal(docker: Dockerd) -> None:
    detach(docker, "box")
    opened = terminal(docker, "exec", "-it", "box", "sh")
    try:
        opened.type("tty\n")
        opened.until(r"/dev/pts/\d+\r\n")
        opened.wait_for_size(24, 80)
        opened.type("exit 3\n")
    finally:
        status = opened.end()
    assert status == 3


def test_attach(docker: Dockerd) -> None:
    """Standard input of a container that dockerd started earlier, and its end."""
    docker("create", "-i", "--name", "box", *NO_NETWORK, BUSYBOX, "sh", "-c", "cat; echo end")
    done = docker("start", "--attach", "--interactive", "box", input="x\n")
    assert done.stdout == "x\nend\n"


@ONE_STACK
def test_stop(docker: Dockerd) -> None:
    # Reading from `sleep` in the background, sh answers the signal at once.
    detach(docker, "polite", "sh", "-c", "trap 'exit 9' TERM; echo ready; sleep 1000 & wait")
    detach(docker, "deaf", "sh", "-c", "trap '' TERM; sleep 1000 & wait; wait")
    eventually(lambda: logs(docker, "polite")[0] == "ready\n")
    docker("stop", "--time", "60", "polite")
    docker("stop", "--time", "1", "deaf")
    assert state(docker, "polite") == ("exited", 9)
    assert state(docker, "deaf") == ("exited", 137)
    docker("start", "polite")
    eventually(lambda: logs(docker, "polite")[0] == "ready\nready\n")
    docker("kill", "--signal", "TERM", "polite")
    assert docker("wait", "polite").stdout == "9\n"


def test_pause(docker: Dockerd) -> None:
    detach(docker, "box")
    docker("pause", "box")
    assert state(docker, "box")[0] == "paused"
    assert docker("exec", "box", "true", check=False).returncode == 1
    docker("unpause", "box")
    assert docker("exec", "box", "echo", "thawed").stdout == "thawed\n"
    docker("pause", "box")
    docker("rm", "--force", "box")


def test_stats(docker: Dockerd) -> None:
    detach(docker, "box")

    def figures_are_right() -> bool:
        # The CLI shows zeros when it has no answer within two seconds.
        figures = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", "box").stdout)
        usage = re.match(r"[1-9][\d.]*[KM]iB / ", figures["MemUsage"])
        return figures["Name"] == "box" and figures["PIDs"] == "1" and usage is not None

    eventually(figures_are_right)


@ONE_STACK
def test_restart(docker: Dockerd) -> None:
    detach(docker, "box", flags=())
    before = docker.inspect("box", ".State.Pid")
    docker("restart", "--time", "0", "box")
    assert docker.inspect("box", ".State.Pid") != before
    assert docker("exec", "box", "echo", "again").stdout == "again\n"


def test_update(docker: Dockerd) -> None:
    detach(docker, "box", flags=("--memory", "64m", "--memory-swap", "64m", *NO_NETWORK))
    changes = ("--memory", "32m", "--cpu-shares", "512", "--cpu-quota", "20000", "--pids-limit", "33")
    docker("update", *changes, "--cpuset-cpus", "0", "box")
    place = f"{docker.cgroup}/{docker.inspect('box', '.Id')}"
    expected = {
        "memory/{}/memory.limit_in_bytes": str(32 << 20),
        "cpu/{}/cpu.shares": "512",
        "cpu/{}/cpu.cfs_quota_us": "20000",
        "pids/{}/pids.max": "33",
        "cpuset/{}/cpuset.cpus": "0",
    }
    read = {name: Path("/sys/fs/cgroup", name.format(place)).read_text().strip() for name in expected}
    assert read == expected


@ONE_STACK
def test_copy(docker: Dockerd, tmp_path: Path) -> None:
    """cp in and out, of a running container and of one that ended; a running one is paused meanwhile."""
    (tmp_path / "in").write_text("carried\n")
    detach(docker, "box")
    docker("cp", tmp_path / "in", "box:/tmp/in")
    assert docker("exec", "box", "cat", "/tmp/in").stdout == "carried\n"
    docker("kill", "box")
    docker("cp", "box:/tmp/in", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "carried\n"
    docker("start", "box")
    assert docker("exec", "box", "cat", "/tmp/in").stdout == "carried\n"


def test_restart_always(docker: Dockerd) -> None:
    detach(docker, "always", flags=("--restart", "always", *NO_NETWORK))
    for count in (1, 2):
        before = docker.inspect("always", ".State.Pid")
        kill_inside(docker, "always")
        eventually(partial(has_new_pid, docker, "always", before))
        assert docker.inspect("always", ".RestartCount") == str(count)
    docker("stop", "--time", "0", "always")
    assert state(docker, "always") == ("exited", 137)


def test_out_of_memory(docker: Dockerd) -> None:
    """A few of them: what the shim says of one that dockerd has seen the end of comes too late."""
    limits = ("--memory", "12m", "--memory-swap", "12m", *NO_NETWORK)

    def is_told() -> bool:
        docker("rm", "--force", "oom", check=False)
        detach(docker, "oom", "tail", "/dev/zero", flags=limits)
        assert docker("wait", "oom").stdout == "137\n"
        return docker.inspect("oom", ".State.OOMKilled") == "true"

    eventually(is_told)


def test_what_cannot_run(docker: Dockerd, tmp_path: Path) -> None:
    """Exit statuses that scripts look at come from the runtime's wording."""
    missing = docker("run", "--rm", *NO_NETWORK, BUSYBOX, "no-such-program", check=False)
    assert missing.returncode == 127 and "no-such-program" in missing.stderr
    denied = docker("run", "--rm", *NO_NETWORK, BUSYBOX, "/etc/passwd", check=False)
    assert denied.returncode == 126 and "permission denied" in denied.stderr
    folder = docker("run", "--rm", *NO_NETWORK, BUSYBOX, "/etc", check=False)
    assert folder.returncode == 126 and "permission denied" in folder.stderr
    assert docker("ps", "--all", "--quiet").stdout == ""


def test_options_of_run(docker: Dockerd, tmp_path: Path) -> None:
    """What dockerd turns into a spec and the runtime into a fact."""
    (tmp_path / "file").write_text("shared\n")
    tmp_path.chmod(0o755)
    flags = [
        *("--init", "--read-only", "--tmpfs", "/scratch:size=1m", "--volume", f"{tmp_path}:/v:ro"),
        *("--cap-drop", "ALL", "--cap-add", "NET_RAW", "--security-opt", "no-new-privileges"),
        *(
            "--ulimit",
            "nofile=100:200",
            "--user",
            "1:2",
            "--device",
            "/dev/null:/dev/nil",
            "--shm-size",
            "1m",
        ),
        *("--hostname", "h1", "--add-host", "other:10.0.0.9", "--sysctl", "net.ipv4.ip_default_ttl=33"),
    ]
    script = """
        cat /proc/1/cmdline | tr '\\0' ' '; echo; cat /v/file; hostname; ulimit -n; id -u; id -g
        touch /root-is-ro 2>/dev/null || echo ro; touch /v/x 2>/dev/null || echo volume ro
        touch /scratch/x && echo scratch
        grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '
        grep other /etc/hosts; test -c /dev/nil && echo device; cat /proc/sys/net/ipv4/ip_default_ttl
    """
    done = docker("run", "--rm", *flags, BUSYBOX, "sh", "-c", script)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("/sbin/docker-init -- sh -c")
    assert [line for line in lines[-14:] if line.strip()] == [
        *("shared", "h1", "100", "1", "2", "ro", "volume ro", "scratch"),
        *("CapBnd: 0000000000002000", "NoNewPrivs: 1", "Seccomp: 2", "10.0.0.9\tother", "device", "33"),
    ], done.stdout


def test_shared_namespaces(docker: Dockerd) -> None:
    detach(docker, "first", flags=("--ipc", "shareable"))
    script = "for kind in net ipc pid; do readlink /proc/self/ns/$kind; done"
    joined = ("--network", "container:first", "--ipc", "container:first", "--pid", "container:first")
    done = docker("run", "--rm", *joined, BUSYBOX, "sh", "-c", script)
    assert done.stdout == docker("exec", "first", "sh", "-c", script).stdout
    done = docker("run", "--rm", "--pid", "host", "--network", "host", "--uts", "host", BUSYBOX, "ps")
    assert "dockerd" in done.stdout
    # All capabilities (--privileged) are more than Debian's runc can give where root itself lacks some.
    flags = ("--cap-add", "SYS_ADMIN", "--cgroupns", "private", *NO_NETWORK)
    script = "mount -t tmpfs none /tmp && cat /proc/self/cgroup"
    done = docker("run", "--rm", *flags, BUSYBOX, "sh", "-c", script)
    assert re.search(r":pids:/$", done.stdout, re.M), done.stdout


@ONE_STACK
def test_published_port(docker: Dockerd) -> None:
    """The bridge, iptables and docker-proxy on a network namespace that our runtime made."""
    detach(
        docker,
        "web",
        "sh",
        "-c",
        "echo hello > /tmp/i; exec httpd -f -p 80 -h /tmp",
        flags=("-p", "127.0.0.1:8080:80"),
    )
    fetch = [goparts.path("busybox"), "wget", "-q", "-O", "-", "http://127.0.0.1:8080/i"]
    eventually(lambda: docker.host.run(list(map(str, fetch))).stdout == "hello\n")
    address = docker.inspect("web", ".NetworkSettings.IPAddress")
    done = docker("run", "--rm", BUSYBOX, "wget", "-q", "-O", "-", f"http://{address}/i")
    assert done.stdout == "hello\n"


@ONE_STACK
def test_health(docker: Dockerd) -> None:
    flags = ("--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "1")
    detach(docker, "box", flags=(*flags, *NO_NETWORK))
    eventually(lambda: docker.inspect("box", ".State.Health.Status") == "unhealthy")
    docker("exec", "box", "touch", "/tmp/well")
    eventually(lambda: docker.inspect("box", ".State.Health.Status") == "healthy")


@ONE_STACK
def test_build(docker: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN echo built > /file\nCMD cat /file\n")
    docker("build", "--tag", "built", tmp_path, env=docker.environment() | {"DOCKER_BUILDKIT": "0"})
    assert docker("run", "--rm", *NO_NETWORK, "built").stdout == "built\n"


@ONE_STACK
def test_many_at_once(docker: Dockerd) -> None:
    count = soak.times(10, 50)
    starting = [
        subprocess.Popen(
            [
                goparts.path("docker"),
                "run",
                "--name",
                f"m{number}",
                *NO_NETWORK,
                BUSYBOX,
                "sh",
                "-c",
                f"echo {number}; exit {number}",
            ],
            env=docker.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for number, process in enumerate(starting):
        out, err = process.communicate(timeout=120)
        assert (out, process.returncode) == (f"{number}\n", number), err
    docker.clean()


SERVICES = """
version: "2.4"
services:
  web:
    image: busybox:latest
    command: sh -c "echo from-web > /tmp/i; exec httpd -f -p 80 -h /tmp"
    healthcheck: {test: "wget -q -O - http://localhost/i", interval: 200ms, retries: 50}
    ports: ["127.0.0.1:8081:80"]
    init: true
  client:
    image: busybox:latest
    command: sh -c "wget -q -O - http://web/i; exec sleep 1000"
    depends_on: {web: {condition: service_healthy}}
    stop_grace_period: 0s
  worker:
    image: busybox:latest
    command: sleep 1000
    volumes: ["data:/data"]
    mem_limit: 32m
    restart: always
    stop_grace_period: 0s
volumes: {data: {}}
"""


@ONE_STACK
def test_compose(docker: Dockerd, short_tmp: Path) -> None:
    require.go("docker-compose")
    file = short_tmp / "docker-compose.yml"
    file.write_text(SERVICES)
    docker.compose(file, "up", "-d")
    try:
        assert len(docker.running()) == 3
        client = docker("ps", "--quiet", "--filter", "name=client").stdout.strip()
        eventually(lambda: logs(docker, client)[0] == "from-web\n")
        assert docker.compose(file, "exec", "-T", "worker", "echo", "hello").stdout == "hello\n"
        docker.compose(file, "up", "-d", "--scale", "worker=3")
        assert len(docker.running()) == 5
    finally:
        docker.compose(file, "down", "--volumes", "--timeout", "0")
    assert docker("ps", "--all", "--quiet").stdout == ""
    assert docker("network", "ls", "--quiet", "--filter", "driver=bridge").stdout.count("\n") == 1


# containerd killed below dockerd


class Exits:
    """A container each for the moments at which one may end while containerd is killed and started."""

    BEFORE = tuple(f"before{number}" for number in range(2))
    DEAD = tuple(f"dead{number}" for number in range(2))
    AGAIN = tuple(f"again{number}" for number in range(2))
    SURVIVORS = ("lives0", "lives1")
    ENDING = (*BEFORE, *DEAD, *AGAIN)

    def __init__(self, docker: Dockerd) -> None:
        self._docker = docker
        for name in (*self.ENDING, *self.SURVIVORS):
            detach(docker, name, flags=("--stop-timeout", "0", *NO_NETWORK))
        self._pids = dict(self._inspect(".State.Pid"))

    def end(self, names: tuple[str, ...]) -> None:
        self._docker.host.run(["kill", "-9", *(self._pids[name] for name in names)])

    def reaped(self) -> bool:
        table = self._docker.host.run(["ps", "-eo", "pid="]).stdout.split()
        return not set(self._pids.values()) & set(table)

    def over(self) -> set[str]:
        """Those that dockerd knows the exit of."""
        wanted = "exited 137"
        return {name for name, found in self._inspect(".State.Status}} {{.State.ExitCode") if found == wanted}

    def _inspect(self, field: str) -> list[tuple[str, str]]:
        lines = self._docker("inspect", "--format", f"{{{{{field}}}}}", *self.ENDING).stdout.splitlines()
        return list(zip(self.ENDING, lines, strict=True))


def deaths(docker: Dockerd, since: float) -> list[str]:
    """Of what dockerd told its clients; sorted names. It remembers its last 256 events."""
    flags = ("--since", f"{since:.3f}", "--until", f"{time.time():.3f}", "--filter", "event=die")
    return sorted(docker("events", *flags, "--format", "{{.Actor.Attributes.name}}").stdout.split())


@on("longshore")
def test_killed_containerd_hides_no_exit(docker: Dockerd) -> None:
    """dockerd re-subscribes a second after its stream broke, and never asks what it missed."""
    since = time.time()
    exits = Exits(docker)
    exits.end(exits.BEFORE)
    docker.containerd.kill9()
    exits.end(exits.DEAD)
    docker.containerd.start()
    exits.end(exits.AGAIN)
    eventually(lambda: exits.over() == set(exits.ENDING), what="dockerd knows every exit")
    assert docker.running() == set(exits.SURVIVORS)
    assert docker("exec", "lives0", "echo", "alive").stdout == "alive\n"
    docker("rm", "--force", *exits.SURVIVORS)
    eventually(lambda: deaths(docker, since) == sorted((*exits.ENDING, *exits.SURVIVORS)))
    assert docker("run", "--rm", *NO_NETWORK, BUSYBOX, "echo", "next").stdout == "next\n"


@on("longshore", *(["all-gos"] if soak.SOAK else []))
def test_exits_while_nobody_listens(docker: Dockerd) -> None:
    """What a dockerd that is slow to come back gets to know: all of it from ours, nothing from Debian's."""
    exits = Exits(docker)
    with docker.frozen():
        docker.containerd.kill9()
        docker.containerd.start()
        exits.end(exits.ENDING)
        eventually(exits.reaped, what="their shims have reaped and reported them")
    if isinstance(docker.containerd, Longshore):
        eventually(lambda: exits.over() == set(exits.ENDING), what="dockerd knows every exit")
        return
    eventually(partial(starts_containers, docker), what="the subscription stands again")
    assert exits.over() == set()
    assert set(exits.ENDING) < docker.running()


def starts_containers(docker: Dockerd) -> bool:
    """While dockerd finds its way back to a new containerd it answers, but can't start anything."""
    return docker("run", "--rm", *NO_NETWORK, BUSYBOX, "true", check=False).returncode == 0


@on("longshore")
def test_containerd_killed_again_and_again(docker: Dockerd) -> None:
    for turn in range(soak.times(1, 10)):
        since, names = time.time(), [f"t{turn}-{number}" for number in range(5)]
        for number, name in enumerate(names):
            detach(docker, name, "sh", "-c", f"sleep 0.{number * 2 + 1}; exit 7")
        docker.containerd.kill9()
        docker.containerd.start()
        eventually(partial(all_ended, docker, names))
        eventually(partial(starts_containers, docker))
        eventually(lambda: [name for name in deaths(docker, since) if name in names] == names)  # noqa: B023


def all_ended(docker: Dockerd, names: list[str]) -> bool:
    return {state(docker, name) for name in names} == {("exited", 7)}


# dockerd killed above containerd


@pytest.mark.parametrize("ending", ["kill9", "stop"] if soak.SOAK else ["kill9"])
def test_live_restore(ending: str) -> None:
    """Containers go on without dockerd, no line of theirs is lost, and the exits meanwhile are known afterwards."""
    require.go(*PARTS)
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); [ -e /tmp/go ] || sleep 0.01; done; sleep 1000"
    with Dockerd(flags=["--live-restore"]) as docker:
        detach(docker, "counts", "sh", "-c", script)
        detach(docker, "ends")
        detach(docker, "again", flags=("--restart", "always", *NO_NETWORK))
        lives, ends, again = (docker.inspect(name, ".State.Pid") for name in ("counts", "ends", "again"))
        docker("exec", "counts", "true")
        if ending == "kill9":
            docker.kill9()
        else:
            docker.stop()
        docker.host.run(["kill", "-9", ends, again])
        docker.start()
        eventually(lambda: state(docker, "ends") == ("exited", 137))
        eventually(partial(has_new_pid, docker, "again", again))
        assert docker.inspect("counts", ".State.Pid") == lives
        docker("exec", "counts", "touch", "/tmp/go")
        eventually(lambda: logs(docker, "counts")[0].endswith("line 1999\n"))
        found, printed = logs(docker, "counts")[0].splitlines(), [f"line {number}" for number in range(2000)]
        if ending == "kill9":  # what Debian's dockerd had read and not yet written went with it
            assert found[-1000:] == printed[-1000:] and set(found) <= set(printed)
        else:
            assert found == printed
        docker("kill", "counts")
        eventually(lambda: state(docker, "counts") == ("exited", 137))
