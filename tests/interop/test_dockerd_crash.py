"""dockerd killed at any moment: what ran runs on, what it knew it knows again, and nothing is left over.

A round begins some work with the docker CLI (run, stop, build, pull), kills
dockerd at a moment that a seeded generator chose, starts it again, and
compares what dockerd says with what is there: tasks, network namespaces,
addresses, rules, volumes, images.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from support import ctr, goparts, images, require, soak
from support.dockerd import NAMESPACE
from support.ourdockerd import BUSYBOX, PARTS, OurDockerd
from support.process import eventually
from support.registry import Registry

KILLS = soak.times(10, 100)
LONGEST = 0.8  # seconds after the work began
SEED = int(os.environ.get("LONGSHORE_SEED", "6"))
NO_NETWORK = ("--network", "none")
FETCH = """
import sys, urllib.request
for url in sys.argv[1:]:
    print(urllib.request.urlopen(url, timeout=60).read().decode(), end="")
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[OurDockerd]:
    require.root()
    require.go(*PARTS)
    with OurDockerd() as docker:
        yield docker


@pytest.fixture
def docker(shared: OurDockerd) -> Iterator[OurDockerd]:
    yield shared
    shared.clean()


class World:
    """What must hold after each round, whatever was interrupted."""

    def __init__(self, docker: OurDockerd) -> None:
        self.docker = docker

    def tasks(self) -> set[str]:
        listed = self.docker.containerd.go_ctr("--namespace", NAMESPACE, "tasks", "ls").stdout
        return {row[0] for row in ctr.rows(listed) if row[2] == "RUNNING"}

    def running(self) -> set[str]:
        return set(self.docker("ps", "--quiet", "--no-trunc").stdout.split())

    def containers(self) -> set[str]:
        return set(self.docker("ps", "--all", "--quiet", "--no-trunc").stdout.split())

    def namespaces(self) -> set[str]:
        done = self.docker.host.run(["sh", "-c", "ls /run/docker/netns 2>/dev/null"])
        return set(done.stdout.split())

    def addresses(self) -> dict[str, str]:
        answer = json.loads(self.docker("network", "inspect", "bridge").stdout)
        return {id: found["IPv4Address"] for id, found in answer[0]["Containers"].items()}

    def links(self) -> int:
        """Ends of veth pairs on the bridge."""
        return self.docker.host.run(["ip", "-o", "link", "show", "master", "docker0"]).stdout.count("\n")

    def rules(self) -> str:
        """DNAT rules: one per published port."""
        save = self.docker.host.run([goparts.path("iptables-save"), "-t", "nat"]).stdout
        return "".join(line for line in save.splitlines(keepends=True) if "DNAT" in line)

    def proxies(self) -> int:
        listed = self.docker.host.run(["ps", "-eo", "args"]).stdout
        return sum("docker-proxy" in line and "container-port" in line for line in listed.splitlines())

    def wrong(self) -> dict[str, object]:
        """What doesn't fit together, as of now."""
        running, tasks, addresses = self.running(), self.tasks(), self.addresses()
        short = {id[:12] for id in running}
        found = self.docker.containerd.go_ctr("--namespace", NAMESPACE, "containers", "ls", "--quiet").stdout
        seen: dict[str, object] = {
            "dockerd says it runs, containerd doesn't": running - tasks,
            "containerd says it runs, dockerd doesn't": tasks - running,
            "namespaces of nothing": self.namespaces() - short,
            "namespaces that are missing": short - self.namespaces(),
            "addresses of nothing": set(addresses) - running,
            "addresses given twice": len(addresses) - len(set(addresses.values())),
            "ends of veth pairs too many": self.links() - len(addresses),
            "containers that only containerd knows": set(found.split()) - self.containers(),
        }
        return {what: which for what, which in seen.items() if which}

    def agree(self) -> None:
        """Wait for it: an exit that was missed is told a moment later."""
        deadline = time.monotonic() + 60
        while wrong := self.wrong():
            assert time.monotonic() < deadline, wrong
            select.select([], [], [], 0.1)


Work = Callable[[int], list[str]]


def start(number: int) -> list[str]:
    return ["run", "-d", "--name", f"run{number}", "-p", f"{19000 + number}:80", BUSYBOX, "sleep", "1000"]


def ends(number: int) -> list[str]:
    return ["run", "--name", f"ends{number}", BUSYBOX, "sh", "-c", "sleep 0.2; exit 7"]


def stop(number: int) -> list[str]:
    return ["stop", "--time", "0", "victim"]


def remove(number: int) -> list[str]:
    return ["rm", "--force", "--volumes", "victim"]


def build(number: int) -> list[str]:
    return ["build", "--no-cache", "--tag", f"built{number}", "{context}"]


def pull(number: int) -> list[str]:
    return ["pull", "{registry}/box:1"]


WORKS: tuple[Work, ...] = (start, stop, build, pull, ends, remove)


def test_killed_at_any_moment(docker: OurDockerd, tmp_path: Path) -> None:
    chance, world = random.Random(SEED), World(docker)
    (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN echo one > /one\nRUN echo two > /two\n")
    docker("run", "-d", "--name", "survivor", "-p", "18999:80", "-v", "kept:/v", BUSYBOX, "sleep", "100000")
    survivor = docker.inspect("survivor", ".State.Pid")
    rules = world.rules()
    with Registry(inside=docker.host) as registry:
        archive = images.busybox_archive(tmp_path)
        copy = [
            "copy",
            "--dest-tls-verify=false",
            f"oci-archive:{archive}",
            f"docker://{registry.name('box:1')}",
        ]
        assert docker.host.run([goparts.path("skopeo"), "--insecure-policy", *copy]).returncode == 0
        for number in range(KILLS):
            docker("run", "-d", "--name", "victim", "-v", "/anonymous", BUSYBOX, "sleep", "1000")
            work, moment = WORKS[number % len(WORKS)], chance.random() * LONGEST
            words = [
                word.format(context=tmp_path, registry=registry.address) if "{" in word else word
                for word in work(number)
            ]
            print(f"{number}: {work.__name__}, killed after {moment:.3f} s")
            client = subprocess.Popen(
                [str(docker.cli), *words],
                env=docker.environment() | {"DOCKER_BUILDKIT": "0"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            select.select([], [], [], moment)  # not to wait for something, but to hit it at different moments
            docker.kill9()
            client.wait(60)
            docker.start()
            world.agree()
            assert docker.inspect("survivor", ".State.Pid") == survivor
            again(docker, work, number, words)
            for name in docker("ps", "--all", "--format", "{{.Names}}").stdout.split():
                if name != "survivor":
                    docker("rm", "--force", "--volumes", name)
            world.agree()
            assert world.rules() == rules, "rules of ports that nobody publishes any more"
            assert docker("volume", "ls", "--quiet").stdout == "kept\n"
    assert docker("exec", "survivor", "echo", "alive").stdout == "alive\n"


def again(docker: OurDockerd, work: Work, number: int, words: list[str]) -> None:
    """What was interrupted can be done now, or is seen to have been done."""
    docker("rm", "--force", f"run{number}", f"ends{number}", check=False)
    done = docker(*words, check=False, env=docker.environment() | {"DOCKER_BUILDKIT": "0"})
    expected = (7,) if work is ends else (0, 1) if work is remove else (0,)
    assert done.returncode in expected, done.stderr
    if work in (build, pull):
        reference = words[3] if work is build else words[1]
        assert docker("run", "--rm", *NO_NETWORK, reference, "echo", "works").stdout == "works\n"


def test_no_line_is_lost_while_dockerd_is_dead(docker: OurDockerd) -> None:
    """Ten megabytes: far more than pipes hold, so somebody reads them."""
    awk = 'BEGIN { for (i = 1; i <= 180000; i++) printf "line %07d %050d\\n", i, 0 }'
    script = f"until [ -e /tmp/go ]; do sleep 0.02; done; awk '{awk}'; touch /tmp/done; sleep 1000"
    docker("run", "-d", "--name", "talks", *NO_NETWORK, BUSYBOX, "sh", "-c", script)
    pid = docker.inspect("talks", ".State.Pid")
    docker("exec", "talks", "true")
    docker.kill9()
    root = f"/proc/{pid}/root"
    docker.host.run(["touch", f"{root}/tmp/go"])
    eventually(
        lambda: docker.host.run(["test", "-e", f"{root}/tmp/done"]).returncode == 0, 60, "all is printed"
    )
    docker.start()
    # What was printed last may still be in the pipe.
    eventually(lambda: docker("logs", "--tail", "1", "talks").stdout.startswith("line 0180000 "))
    printed = docker("logs", "talks").stdout.splitlines()
    assert len("\n".join(printed)) > 9_000_000
    assert [int(line.split()[1]) for line in printed] == list(range(1, 180001))


def test_an_exit_meanwhile_is_known(docker: OurDockerd) -> None:
    """One that ends, one that is to be started again, one that is removed at its end."""
    for name, flags in (("ends", ()), ("again", ("--restart", "always")), ("goes", ("--rm",))):
        docker("run", "-d", "--name", name, *flags, BUSYBOX, "sleep", "1000")
    pids = {name: docker.inspect(name, ".State.Pid") for name in ("ends", "again", "goes")}
    docker.kill9()
    docker.host.run(["kill", "-9", *pids.values()])
    docker.start()
    eventually(lambda: docker.inspect("ends", ".State.Status}} {{.State.ExitCode") == "exited 137")
    eventually(lambda: docker.inspect("again", ".State.Pid") not in ("0", pids["again"]))
    eventually(lambda: docker("ps", "--all", "--quiet", "--filter", "name=goes").stdout == "")
    World(docker).agree()


def test_two_hundred_published_ports(docker: OurDockerd) -> None:
    """Of one container: each answers, by proxy on loopback and by rule on the host's address; then none is left."""
    world = World(docker)
    script = "mkdir /w; echo hello > /w/i; exec httpd -f -p 80 -h /w"
    ports = [word for port in range(17000, 17200) for word in ("-p", f"{port}:80")]
    docker("run", "-d", "--name", "many", *ports, BUSYBOX, "sh", "-c", script, timeout=240)
    gateway = docker.inspect("many", ".NetworkSettings.Gateway")

    def answers(ports: Sequence[int], *addresses: str) -> bool:
        urls = [f"http://{address}:{port}/i" for address in addresses for port in ports]
        done = docker.host.run([sys.executable, "-c", FETCH, *urls], timeout=240)
        return done.stdout == "hello\n" * len(urls)

    eventually(lambda: answers([17000], "127.0.0.1"))
    assert answers(range(17000, 17200), "127.0.0.1", gateway)
    other = docker("run", "--rm", BUSYBOX, "wget", "-q", "-O", "-", f"http://{gateway}:17199/i")
    assert other.stdout == "hello\n"
    assert world.rules().count("\n") == 200
    docker.kill9()
    docker.start()
    assert answers([17000, 17100], "127.0.0.1", gateway)
    assert world.rules().count("\n") == 200
    docker("rm", "--force", "many", timeout=240)
    assert world.rules() == ""
    assert not answers([17000], "127.0.0.1") and not answers([17199], "127.0.0.1")
    eventually(lambda: world.proxies() == 0)
