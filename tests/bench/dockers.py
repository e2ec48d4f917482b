"""(n) The two dockerds, each on its own containerd and private host, by Debian's docker CLI.

Published ports are measured from the host to a server in the container's
network namespace, by way of docker-proxy on loopback; the server is a Python of
this machine, the same for both. Memory is the PSS of everything but the
containers' own processes: daemons, shims, proxies, loggers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from bench.daemons import Pair
from bench.report import summary
from support import process
from support.dockerd import BUSYBOX, AnyDockerd, Dockerd
from support.ourdockerd import OurDockerd

RUNNING = 20
PORT = 18080
NO_NETWORK = ("--network", "none")
SERVER = """
import socket, threading
def serve(connection):
    with connection:
        wanted = int(connection.recv(100))
        block = bytes(1 << 20)
        for _ in range(wanted):
            connection.sendall(block)
        connection.sendall(b"!")
with socket.create_server(("", 80), backlog=512) as listener:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
CLIENT = """
import socket, sys, time
port, connections, mebibytes = map(int, sys.argv[1:])
started = time.perf_counter()
for _ in range(connections):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"%d" % mebibytes)
        left = (mebibytes << 20) + 1
        while left:
            left -= len(connection.recv(1 << 20))
print(time.perf_counter() - started)
"""
MEMORY = """
import os, sys
total = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if sys.argv[1] in open(f"/proc/{pid}/cgroup").read() or int(pid) == os.getpid():
            continue
        total += sum(int(l.split()[1]) for l in open(f"/proc/{pid}/smaps_rollup") if l.startswith("Pss:"))
    except (OSError, ValueError):
        pass
print(total)
"""


class Both(NamedTuple):
    ours: AnyDockerd
    go: AnyDockerd

    def interleaved(self, rounds: int, work: Callable[[AnyDockerd], list[float]]) -> dict[str, list[float]]:
        """Seconds by name; who is first changes."""
        times: dict[str, list[float]] = {"ours": [], "go": []}
        for number in range(rounds):
            for name in ("ours", "go") if number % 2 == 0 else ("go", "ours"):
                times[name] += work(getattr(self, name))
        return times


def timed(docker: AnyDockerd, *words: str, count: int = 1) -> list[float]:
    """Seconds of each of `count` calls of the docker CLI."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        docker(*words, timeout=300)
        times.append(time.perf_counter() - started)
    return times


def commands(both: Both, options: argparse.Namespace) -> dict[str, Any]:
    for docker in both:
        docker("run", "-d", "--name", "box", *NO_NETWORK, BUSYBOX, "sleep", "1000000")
    count = options.per_round
    calls = {
        "docker run --rm": ("run", "--rm", BUSYBOX, "true"),
        "docker run --rm, no network": ("run", "--rm", *NO_NETWORK, BUSYBOX, "true"),
        "docker exec": ("exec", "box", "true"),
        "docker ps": ("ps",),
    }
    return {
        name: summary(both.interleaved(options.rounds, lambda d, w=words: timed(d, *w, count=count)))  # type: ignore[misc]
        for name, words in calls.items()
    }


def logs(both: Both, options: argparse.Namespace) -> dict[str, Any]:
    """Lines of 50 bytes: printed by a container and copied to the log, then read from it."""
    lines = options.content * 20000 // 16
    script = f"yes 0123456789012345678901234567890123456789012345678 | head -n {lines}"
    rounds = max(1, options.rounds // 3)

    def write(docker: AnyDockerd) -> list[float]:
        docker("rm", "-f", "talks", check=False)
        started = time.perf_counter()
        docker("run", "-d", "--name", "talks", *NO_NETWORK, BUSYBOX, "sh", "-c", script)
        docker("wait", "talks", timeout=300)
        return [time.perf_counter() - started]

    def read(docker: AnyDockerd) -> list[float]:
        started = time.perf_counter()
        docker("logs", "talks", stdout=subprocess.DEVNULL, capture_output=False, timeout=300)
        return [time.perf_counter() - started]

    return {
        f"{lines} lines printed into the log": summary(both.interleaved(rounds, write)),
        f"docker logs, {lines} lines": summary(both.interleaved(rounds, read)),
    }


def ports(both: Both, options: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        for docker in both:
            docker("run", "-d", "--name", "web", "-p", f"127.0.0.1:{PORT}:80", BUSYBOX, "sleep", "1000000")
            pid = docker.inspect("web", ".State.Pid")
            enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
            server = docker.host.popen([*enter, sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
            stack.callback(docker.host.run, ["pkill", "-f", "backlog=512"])
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"

        def fetch(docker: AnyDockerd, connections: int, mebibytes: int) -> list[float]:
            words = [str(PORT), str(connections), str(mebibytes)]
            done = docker.host.run([sys.executable, "-c", CLIENT, *words], timeout=300, check=True)
            return [float(done.stdout) / connections]

        size, many = options.content, options.per_round * 100
        return {
            f"{size} MiB through a published port": summary(
                both.interleaved(max(1, options.rounds // 3), lambda d: fetch(d, 1, size))
            ),
            "connection to a published port": summary(
                both.interleaved(options.rounds, lambda d: fetch(d, many, 0))
            ),
        }


def memory(both: Both) -> dict[str, Any]:
    found = {}
    for name in ("ours", "go"):
        docker: AnyDockerd = getattr(both, name)
        for number in range(RUNNING):
            ports = ("-p", f"127.0.0.1:{19000 + number}:80")
            docker("run", "-d", "--name", f"m{number}", *ports, BUSYBOX, "sleep", "1000000")
        process.eventually(lambda d=docker: len(d.running()) >= RUNNING)  # type: ignore[misc]
        said = docker.host.run([sys.executable, "-c", MEMORY, docker.cgroup], check=True).stdout
        found[name] = {"mean": int(said) / 1024}
        docker("rm", "-f", *(f"m{number}" for number in range(RUNNING)))
    ratio = found["ours"]["mean"] / found["go"]["mean"]
    return {f"memory, {RUNNING} running": {"unit": "MiB", **found, "ratio": {"mean": ratio}}}


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    """`pair` rests meanwhile: a dockerd has a containerd of its own."""
    with OurDockerd() as ours, Dockerd("real") as go:
        both = Both(ours, go)
        for docker in both:
            timed(docker, "run", "--rm", BUSYBOX, "true", count=2)  # warm
        return commands(both, options) | logs(both, options) | ports(both, options) | memory(both)
