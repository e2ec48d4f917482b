"""The two daemons of a benchmark, started alike and cleaned up after."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench import private
from bench.measure import Account
from support import goparts, host, images, process

LONGSHORE = (sys.executable, "-m", "longshore.launcher")
PROGRAMS: dict[str, tuple[str, ...]] = {"ours": (*LONGSHORE, "containerd"), "go": ("containerd",)}
CONFIG = 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'


@dataclass
class Daemon:
    """One of the two: `name` is "ours" or "go"."""

    name: str
    address: Path
    process: subprocess.Popen[bytes]
    account: Account

    def ctr(self, *words: str) -> list[str]:
        """The command line of Debian's ctr on this daemon."""
        return [str(goparts.path("ctr")), "-a", str(self.address), "-n", self.namespace, *words]

    def ask(self, *words: str) -> str:
        """What Debian's ctr says. Raises CalledProcessError."""
        return subprocess.run(
            self.ctr(*words), stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True
        ).stdout

    @property
    def namespace(self) -> str:
        return private.name(self.name)

    def cpu(self) -> float:
        return self.account.cpu()

    def memory(self) -> int:
        return self.account.memory()

    def nothing_runs(self) -> None:
        """RuntimeError if a container of ours is still recorded."""
        if left := self.ask("containers", "ls", "-q").split():
            raise RuntimeError(f"{self.name}: {len(left)} containers are left, {left[0]} among them")


class Pair(NamedTuple):
    """Both, and what containers are made of: a root file system, and the same as an image's archive."""

    ours: Daemon
    go: Daemon
    rootfs: Path
    archive: Path

    @property
    def sides(self) -> tuple[Daemon, Daemon]:
        return self.ours, self.go


@contextmanager
def pair() -> Iterator[Pair]:
    folder = private.folder()
    rootfs = images.busybox_rootfs(folder)
    archive = images.busybox_archive(folder)
    with both(folder) as (ours, go):
        yield Pair(ours, go, rootfs, archive)


@contextmanager
def both(place: Path, what: str = "") -> Iterator[tuple[Daemon, Daemon]]:
    """The two with their roots in `place`; `what` keeps them apart from others that run."""
    with ExitStack() as stack:
        ours, go = (stack.enter_context(started(name, place, what)) for name in private.SIDES)
        yield ours, go


def program(name: str) -> list[str]:
    """The command line of a daemon, without flags."""
    return list(PROGRAMS[name]) if name == "ours" else [str(goparts.path("containerd"))]


def flags(home: Path, state: Path, address: Path, level: str = "warn") -> list[str]:
    """A daemon's, with its configuration written to `home`."""
    config = home / "config.toml"
    config.write_text(CONFIG)
    words: Sequence[str | Path] = (
        *("--config", config, "--root", home / "root", "--state", state / "state"),
        *("--address", address, "--log-level", level),
    )
    return [str(word) for word in words]


@contextmanager
def started(name: str, place: Path, what: str) -> Iterator[Daemon]:
    """A daemon with its root on disk and its state on /run's tmpfs, as installed ones have."""
    home, state = place / name, Path(f"/run/{name}{what}")
    home.mkdir()
    state.mkdir()
    log, address = home / "log", state / "c.sock"
    account = Account(private.name(name, f"{what}-daemon"), private.name(name, what))
    with open(log, "wb") as output:
        running = subprocess.Popen(
            [*account.prefix(), *program(name), *flags(home, state, address)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=goparts.environment(),
        )
    try:
        process.wait_for_socket(running, address, log)
        yield Daemon(name, address, running, account)
    except BaseException:
        print(process.tail(log), file=sys.stderr)
        raise
    finally:
        host.stop(running, running.pid)
        account.close()
