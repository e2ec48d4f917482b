"""Programs that were written for Docker, unmodified, on our dockerd: its Python libraries and docker-compose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support import goparts, require, soak
from support.apiclients import CLIENTS
from support.dockerd import PARTS, AnyDockerd, Dockerd
from support.ourdockerd import PARTS as OUR_PARTS
from support.ourdockerd import OurDockerd
from support.process import eventually

STACKS: dict[str, Callable[[], AbstractContextManager[AnyDockerd]]] = {
    "ours": OurDockerd,
    "ours-on-real": lambda: OurDockerd("real"),
    "all-gos": lambda: Dockerd("real"),  # the proof of the tests themselves
}


@pytest.fixture(scope="module", params=STACKS if soak.SOAK else ["ours"])
def shared(request: pytest.FixtureRequest) -> Iterator[AnyDockerd]:
    require.root()
    require.go(*PARTS, *OUR_PARTS)
    with STACKS[request.param]() as docker:
        yield docker


@pytest.fixture
def docker(shared: AnyDockerd) -> Iterator[AnyDockerd]:
    yield shared
    shared.clean()


@pytest.mark.parametrize("library", CLIENTS)
def test_library(docker: AnyDockerd, library: str) -> None:
    environment = docker.environment() | {"PYTHONPATH": str(goparts.PROJECT / "tests")}
    done = docker.call(
        [sys.executable, "-m", "support.apiclients", library], inside=True, env=environment, timeout=120
    )
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr


COMPOSE = """
version: "2.4"
services:
  store:
    image: busybox:latest
    command: sh -c "mkdir -p /data/w; echo from-store > /data/w/i; exec httpd -f -p 80 -h /data/w"
    healthcheck: {test: "wget -q -O - http://localhost/i", interval: 200ms, retries: 50}
    networks: {back: {aliases: [warehouse]}}
    volumes: ["data:/data"]
    stop_grace_period: 0s
  app:
    image: busybox:latest
    command: sh -c "wget -q -O /tmp/i http://warehouse/i; exec httpd -f -p 80 -h /tmp"
    depends_on: {store: {condition: service_healthy}}
    networks: [front, back]
    environment: {COLOR: red}
    init: true
    stop_grace_period: 0s
  web:
    image: busybox:latest
    command: sh -c "until wget -q -O /tmp/i http://app/i; do sleep 0.1; done; exec httpd -f -p 80 -h /tmp"
    depends_on: [app]
    networks: [front]
    ports: ["127.0.0.1:8090:80"]
    stop_grace_period: 0s
  worker:
    image: busybox:latest
    command: sh -c "sleep 0.2; exit 1"
    networks: [back]
    restart: always
    stop_grace_period: 0s
  reader:
    image: busybox:latest
    command: sh -c "cat /data/w/i; exec sleep 1000"
    depends_on: {store: {condition: service_healthy}}
    volumes: ["data:/data:ro"]
    networks: [back]
    mem_limit: 32m
    stop_grace_period: 0s
networks:
  front: {}
  back: {internal: true}
volumes: {data: {}}
"""


def test_compose(docker: AnyDockerd, short_tmp: Path) -> None:
    """Five services that depend on each other, two networks, a volume, a restart policy; scaled and changed."""
    require.go("docker-compose")
    file = short_tmp / "docker-compose.yml"
    file.write_text(COMPOSE)
    fetch = [str(goparts.path("busybox")), "wget", "-q", "-O", "-", "http://127.0.0.1:8090/i"]

    def restarts() -> int:
        return int(docker.inspect(one(docker, "worker"), ".RestartCount"))

    docker.compose(file, "up", "-d")
    try:
        eventually(lambda: docker.host.run(fetch).stdout == "from-store\n")
        eventually(lambda: docker("logs", one(docker, "reader")).stdout == "from-store\n")
        eventually(lambda: restarts() >= 2, what="the worker is started again and again")
        assert docker.compose(file, "exec", "-T", "app", "sh", "-c", "echo $COLOR").stdout == "red\n"
        isolated = docker("exec", one(docker, "web"), "wget", "-q", "-O", "-", "http://store/i", check=False)
        assert isolated.returncode != 0
        docker.compose(file, "up", "-d", "--scale", "reader=3")
        assert len(docker("ps", "--quiet", "--filter", "name=reader").stdout.split()) == 3
        before = docker.inspect(one(docker, "store"), ".Id")
        file.write_text(COMPOSE.replace("COLOR: red", "COLOR: blue"))
        docker.compose(file, "up", "-d")
        assert docker.compose(file, "exec", "-T", "app", "sh", "-c", "echo $COLOR").stdout == "blue\n"
        assert docker.inspect(one(docker, "store"), ".Id") == before, "what did not change is left alone"
        assert docker.compose(file, "port", "web", "80").stdout == "127.0.0.1:8090\n"
        docker.compose(file, "stop", "--timeout", "0")
        assert docker.running() == set()
        docker.compose(file, "start")
        assert "from-store" in docker.compose(file, "logs", "--no-color", "reader").stdout
    finally:
        docker.compose(file, "down", "--volumes", "--timeout", "0", check=False)
    assert docker("ps", "--all", "--quiet").stdout == ""
    assert docker("network", "ls", "--quiet", "--filter", "type=custom").stdout == ""
    assert docker("volume", "ls", "--quiet").stdout == ""


def one(docker: AnyDockerd, service: str) -> str:
    """The id of the first container of a service."""
    filters = ("--filter", f"label=com.docker.compose.service={service}")
    return docker("ps", "--all", "--quiet", *filters).stdout.split()[-1]
