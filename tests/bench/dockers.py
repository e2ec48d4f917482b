"""The two dockerds, each on its own containerd and private host, by Debian's docker CLI.

Published ports are measured from the host to a server in the container's
network namespace, by way of docker-proxy on loopback, and the bridge from the
host to the container's own address; the server is a Python of this machine, the
same for both. Memory is that of daemons, shims, proxies and loggers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench import private
from bench.daemons import Pair
from bench.measure import Account, Found, Turn, take_turns
from bench.report import Figures, measures
from support import host, process
from support.dockerd import BUSYBOX, AnyDockerd, Dockerd
from support.ourdockerd import OurDockerd

RUNNING = 20
PORT = 18080
NO_NETWORK = ("--network", "none")
SERVER = """
import socket, sys, threading
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
address, port, connections, mebibytes = sys.argv[1], *map(int, sys.argv[2:])
started = time.perf_counter()
for _ in range(connections):
    with socket.create_connection((address, port)) as connection:
        connection.sendall(b"%d" % mebibytes)
        left = (mebibytes << 20) + 1
        while left:
            got = len(connection.recv(1 << 20))
            if not got:
                sys.exit(f"closed {left} bytes too early")
            left -= got
print(time.perf_counter() - started)
"""


class Stack:
    """A dockerd as a side: it, its containerd, and all that they start."""

    def __init__(self, name: str, docker: AnyDockerd) -> None:
        self.name, self.docker = name, docker
        self.account = Account(private.name(name, "-dockerd"), docker.cgroup)
        for daemon in (docker.pid, docker.containerd.pid):
            self.account.adopt(daemon)

    def cpu(self) -> float:
        return self.account.cpu()

    def memory(self) -> int:
        return self.account.memory()

    def close(self) -> None:
        """Its containers end first: the account's groups hold theirs."""
        self.docker.clean()
        self.account.close()


Sides = Sequence[Stack]
Work = Callable[[Stack, Turn], None]


def commands(sides: Sides, options: argparse.Namespace) -> Found:
    for side in sides:
        side.docker("run", "-d", "--name", "box", *NO_NETWORK, BUSYBOX, "sleep", "1000000")
    calls: dict[str, tuple[str, ...]] = {
        RUN: ("run", "--rm", BUSYBOX, "echo", "done"),
        "docker run --rm, no network": ("run", "--rm", *NO_NETWORK, BUSYBOX, "echo", "done"),
        EXEC: ("exec", "box", "echo", "done"),
        "docker ps": ("ps", "--format", "done"),
    }

    def work(side: Stack, turn: Turn) -> None:
        for name, words in calls.items():
            for _ in range(options.per_round):
                with turn.timed(name):
                    said = side.docker(*words, timeout=300).stdout
                if said != "done\n":
                    raise RuntimeError(f"{side.name}: {name} said {said!r}")

    return take_turns(sides, options.rounds, work)


def logs(sides: Sides, options: argparse.Namespace) -> Found:
    """Lines of 50 bytes: printed by a container and copied to the log, then read from it."""
    lines = options.content * 20000 // 16
    script = f"yes 0123456789012345678901234567890123456789012345678 | head -n {lines}"
    written, read = f"{lines:,} lines printed into the log", f"docker logs, {lines:,} lines"

    def work(side: Stack, turn: Turn) -> None:
        docker = side.docker
        with turn.timed(written):
            docker("run", "-d", "--name", "talks", *NO_NETWORK, BUSYBOX, "sh", "-c", script)
            docker("wait", "talks", timeout=300)
        with open(docker.folder / "output", "w+b") as output:
            with turn.timed(read):
                docker("logs", "talks", stdout=output, capture_output=False, timeout=300)
            if output.tell() != lines * 50:
                raise RuntimeError(f"{side.name}: {output.tell()} bytes of {lines * 50} are in the log")
        (docker.folder / "output").unlink()
        docker("rm", "talks")

    return take_turns(sides, options.few, work)


@contextmanager
def serving(sides: Sides) -> Iterator[None]:
    """A container "web" on each side whose server port PORT of loopback leads to."""
    with ExitStack() as stack:
        for docker in (side.docker for side in sides):
            docker("run", "-d", "--name", "web", "-p", f"127.0.0.1:{PORT}:80", BUSYBOX, "sleep", "1000000")
            enter = ["nsenter", f"--net=/proc/{docker.inspect('web', '.State.Pid')}/ns/net"]
            server = docker.host.popen([*enter, sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
            stack.enter_context(server)
            stack.callback(host.stop, server, host.innermost(server.pid))
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        yield


def ports(sides: Sides, options: argparse.Namespace) -> Found:
    size, many = options.content, options.per_round * 100
    through, over = f"{size} MiB through a published port", f"{size} MiB over the bridge"
    connects = "connection to a published port"

    def fetch(
        side: Stack, turn: Turn, name: str, address: str, port: int, connections: int, mebibytes: int
    ) -> None:
        words = [address, *map(str, (port, connections, mebibytes))]
        with turn.counted(name, connections):
            done = side.docker.host.run([sys.executable, "-c", CLIENT, *words], timeout=300, check=True)
        turn.took(name, float(done.stdout) / connections)

    def streams(side: Stack, turn: Turn) -> None:
        address = side.docker.inspect("web", ".NetworkSettings.Networks.bridge.IPAddress")
        fetch(side, turn, through, "127.0.0.1", PORT, 1, size)
        fetch(side, turn, over, address, 80, 1, size)

    def connections(side: Stack, turn: Turn) -> None:
        fetch(side, turn, connects, "127.0.0.1", PORT, many, 0)

    with serving(sides):
        return take_turns(sides, options.few, streams) | take_turns(sides, options.rounds, connections)


def memory(sides: Sides) -> Found:
    def work(side: Stack, turn: Turn) -> None:
        docker = side.docker
        for number in range(RUNNING):
            ports = ("-p", f"127.0.0.1:{19000 + number}:80")
            docker("run", "-d", "--name", f"m{number}", *ports, BUSYBOX, "sleep", "1000000")
        process.eventually(lambda: len(docker.running()) >= RUNNING)
        turn.took(MEMORY, side.memory())
        docker("rm", "-f", *(f"m{number}" for number in range(RUNNING)))

    return take_turns(sides, 1, work)


RUN, EXEC = "docker run --rm", "docker exec"
MEMORY = f"dockerd, {RUNNING} running with a port each: PSS of it all"


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    """`pair` rests meanwhile: a dockerd has a containerd of its own."""
    with ExitStack() as stack:
        sides = []
        for name, docker in (("ours", OurDockerd()), ("go", Dockerd("real"))):
            docker.cgroup = private.name(name, "-docker")
            stack.enter_context(docker)
            side = Stack(name, docker)
            stack.callback(side.close)
            sides.append(side)
            for _ in range(2):
                docker("run", "--rm", BUSYBOX, "true")  # warm
        found = commands(sides, options) | logs(sides, options) | ports(sides, options) | memory(sides)
    aims = {RUN: 0.4, EXEC: 0.6, MEMORY: 1.0}
    aims |= dict.fromkeys((name for name in found if "published port" in name), 1.2)
    return measures(found, aims=aims, units={MEMORY: "MiB"})
