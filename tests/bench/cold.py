"""From exec of the daemon until its socket answers, and its memory then: on an empty root each time."""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import private
from bench.daemons import Pair, flags, program
from bench.measure import Account, Memory, Turn, take_turns
from bench.report import Figures, measures
from support import goparts, host

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@dataclass
class Starter:
    """A side whose daemon is started again and again."""

    name: str
    account: Account

    def cpu(self) -> float:
        return self.account.cpu()

    def memory(self) -> int:
        return self.account.memory()

    @property
    def namespace(self) -> str:
        return private.name(self.name, "-cold")

    @contextmanager
    def running(self, folder: Path) -> Iterator[float]:
        """A daemon on what is in `folder`: the seconds until it answered."""
        command = [*self.account.prefix(), *program(self.name)]
        command += flags(folder, folder, folder / "c.sock", "error")
        started = time.perf_counter()
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=goparts.environment(),
        )
        try:
            while not answers(folder / "c.sock"):
                if daemon.poll() is not None:
                    raise RuntimeError(f"{self.name} ended with {daemon.returncode}")
                time.sleep(0.002)
            yield time.perf_counter() - started
        finally:
            host.stop(daemon, daemon.pid)

    def weigh(self) -> int:
        """Private bytes of the daemon, with its zygote's."""
        return sum(Memory.of(pid).private for pid in self.account.processes())


@contextmanager
def starters() -> Iterator[tuple[Starter, Starter]]:
    with ExitStack() as stack:
        sides = []
        for name in private.SIDES:
            account = Account(private.name(name, "-cold-daemon"), private.name(name, "-cold"))
            stack.callback(account.close)
            sides.append(Starter(name, account))
        yield sides[0], sides[1]


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder on /run's tmpfs: neither side waits for a disk."""
    folder = Path(tempfile.mkdtemp(prefix="cold-", dir="/run"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: Path) -> bool:
    """True once the server has sent its own HTTP/2 settings."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(2)
        try:
            door.connect(str(address))
            door.sendall(PREFACE)
            return bool(door.recv(9))
        except OSError:
            return False


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    starting, idle = "daemon: exec until it answers, empty root", "daemon: private memory, idle"

    def work(side: Starter, turn: Turn) -> None:
        with temporary() as folder, turn.counted(starting), side.running(folder) as elapsed:
            turn.took(starting, elapsed)
            turn.took(idle, side.weigh())

    with starters() as sides:
        found = take_turns(sides, options.rounds, work)
    return measures(found, aims={starting: 4, idle: 6}, units={idle: "MiB"})
