"""Our docker-proxy and docker-init below Debian's dockerd."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.init import native
from longshore.link import link
from support import goparts
from support.dockerd import BUSYBOX, Dockerd
from support.folders import short_folder
from support.process import eventually


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    with short_folder() as folder:
        link(str(folder))
        flags: list[str | Path] = [
            "--userland-proxy-path",
            folder / "docker-proxy",
            "--init-path",
            native.path(),
        ]
        with Dockerd("real", flags=flags) as docker:
            yield docker


def fetch(docker: Dockerd, address: str) -> str:
    # Not busybox: its static wget crashes in the C library's look-up of names.
    script = f"import urllib.request as r; print(r.urlopen({address!r}, timeout=60).read().decode(), end='')"
    return docker.call([sys.executable, "-c", script], inside=True, check=False).stdout


def proxies(docker: Dockerd) -> list[str]:
    listing = docker.host.run([goparts.path("busybox"), "ps", "-o", "args"]).stdout
    return [line for line in listing.splitlines() if "docker-proxy -proto" in line]


def test_a_published_port_on_loopback(docker: Dockerd) -> None:
    script = "echo hello > /index.html; exec httpd -f -h / -p 80"
    docker("run", "-d", "--name", "web", "-p", "8080:80", "-p", "9090:90/udp", BUSYBOX, "sh", "-c", script)
    try:
        assert len(proxies(docker)) == 4  # IPv4 and IPv6, tcp and udp
        # Traffic on loopback isn't translated by rules, only the proxy carries it.
        eventually(lambda: fetch(docker, "http://127.0.0.1:8080/") == "hello\n")
        done = docker("run", "-d", "-p", "8080:80", BUSYBOX, "true", check=False)
        assert "port is already allocated" in done.stderr
    finally:
        docker("rm", "-f", "web")
    eventually(lambda: not proxies(docker))


def test_a_port_that_a_process_has_taken(docker: Dockerd) -> None:
    holder = docker.host.popen([goparts.path("busybox"), "nc", "-l", "-p", "8081"], stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: ":1F91" in docker.host.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout)
        done = docker("run", "-d", "--name", "taken", "-p", "8081:80", BUSYBOX, "true", check=False)
        assert "bind: address already in use" in done.stderr
    finally:
        holder.kill()
        holder.wait()
        docker("rm", "-f", "taken", check=False)


def test_init(docker: Dockerd) -> None:
    done = docker("run", "--rm", "--init", "--network", "none", BUSYBOX, "ps", "-o", "pid,args")
    assert "1 /sbin/docker-init -- ps" in done.stdout
    script = "echo ready; exec sleep 1000"
    docker("run", "-d", "--init", "--name", "sleeper", "--network", "none", BUSYBOX, "sh", "-c", script)
    eventually(lambda: docker("logs", "sleeper").stdout == "ready\n")  # its init forwards signals by now
    # Without an init, a shell or sleep as PID 1 would ignore it.
    docker("kill", "--signal", "TERM", "sleeper")
    assert docker("wait", "sleeper").stdout == "143\n"
    docker("rm", "sleeper")


def test_info_shows_its_version(docker: Dockerd) -> None:
    assert "longshore" in docker("info", "--format", "{{.InitCommit.ID}}").stdout


def test_link_writes_them(tmp_path: Path) -> None:
    link(str(tmp_path))
    shown = subprocess.run(
        [tmp_path / "docker-init", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("tini version ")
    shown = subprocess.run(
        [tmp_path / "docker-proxy", "-version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("docker-proxy (longshore)")
