"""The two daemons of a benchmark, started alike and cleaned up after."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from support import goparts, images, process

NAMESPACE = "bench"
RUNTIME = "io.containerd.runc.v2"


@dataclass
class Daemon:
    """One of the two: `name` is "ours" or "go"."""

    name: str
    address: Path
    process: subprocess.Popen[bytes]

    def ctr(self, *words: str) -> list[str]:
        """The command line of Debian's ctr on this daemon."""
        return [str(goparts.path("ctr")), "-a", str(self.address), "-n", self.namespace, *words]

    @property
    def namespace(self) -> str:
        """Each its own: a containerd namespace is a directory of the one cgroup tree."""
        return f"{NAMESPACE}-{self.name}-{os.getpid()}"


class Pair(NamedTuple):
    ours: Daemon
    go: Daemon
    rootfs: Path
    archive: Path

    def turns(self, rounds: int) -> Iterator[Daemon]:
        """Ours, Go, Go, ours, ours ...: who is first changes."""
        for number in range(rounds):
            yield from (self.ours, self.go) if number % 2 == 0 else (self.go, self.ours)


def interleaved(pair: Pair, rounds: int, work: Callable[[Daemon], list[float]]) -> dict[str, list[float]]:
    """Let the two take turns; seconds by name."""
    times: dict[str, list[float]] = {"ours": [], "go": []}
    for daemon in pair.turns(rounds):
        times[daemon.name] += work(daemon)
    return times


@contextmanager
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="ls-bench-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        rootfs = images.busybox_rootfs(folder)
        archive = images.busybox_archive(folder)
        longshore = [sys.executable, "-m", "longshore.launcher", "containerd"]
        ours = stack.enter_context(started("ours", longshore, folder))
        go = stack.enter_context(started("go", [str(goparts.path("containerd"))], folder))
        yield Pair(ours, go, rootfs, archive)


@contextmanager
def started(name: str, command: list[str], folder: Path) -> Iterator[Daemon]:
    """A daemon with its root on disk and its state on /run's tmpfs, as installed ones have."""
    home, state = folder / name, Path("/run") / name
    home.mkdir()
    state.mkdir()
    config, log, address = home / "config.toml", home / "log", state / "c.sock"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    flags = ["--config", config, "--root", home / "root", "--state", state / "state", "--address", address]
    with open(log, "wb") as output:
        running = subprocess.Popen(
            [*command, *map(str, flags), "--log-level", "warn"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=goparts.environment(),
        )
    daemon = Daemon(name, address, running)
    try:
        process.wait_for_socket(running, address, log)
        yield daemon
    except BaseException:
        print(process.tail(log), file=sys.stderr)
        raise
    finally:
        running.terminate()
        running.wait()
        remove_cgroups(daemon.namespace)


def remove_cgroups(name: str) -> None:
    """runc leaves the parents that it made."""
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    for top in tops:
        for path in sorted((top / name).rglob("*"), reverse=True) if (top / name).is_dir() else []:
            if path.is_dir():
                path.rmdir()
        if (top / name).is_dir() and not top.is_symlink():
            (top / name).rmdir()
