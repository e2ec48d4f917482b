"""``longshore up``: containerd in the foreground, with everything in one folder.

    longshore up --dir ./stack

Starts processes and does nothing itself, so it imports none of the parts. The
daemon runs in a session of its own: Ctrl-C reaches us alone, and we end it in
order. Containers go on, and the next `up` on the same folder finds them;
``--stop-containers`` ends them first.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

ROOT_DIR: Final = "/var/lib/longshore"
ROOT_RUN: Final = "/run/longshore"

# A sockaddr_un has 108 bytes, one of them the NUL; the daemon's second socket adds ".ttrpc".
LONGEST_ADDRESS: Final = 107 - len(".ttrpc")

STARTING: Final = 60.0  # seconds for the daemon to say that it is ready
STOPPING: Final = 20.0  # seconds after SIGTERM, until SIGKILL
GRACE: Final = 10.0  # seconds for containers to end after SIGTERM

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """Why the stack isn't up, in words."""


class Places(NamedTuple):
    """Where things are: `root` persists, `state` may go with a reboot."""

    root: str
    state: str
    address: str
    log: str


def places(directory: str | None, *, uid: int, environment: Mapping[str, str]) -> Places:
    """Without a directory: the system's for root, the XDG ones for anybody else."""
    if directory is not None:
        home = os.path.abspath(directory)
        run = os.path.join(home, "run")
    elif uid == 0:
        home, run = ROOT_DIR, ROOT_RUN
    else:
        user = environment.get("HOME", "/")
        home = os.path.join(environment.get("XDG_DATA_HOME") or f"{user}/.local/share", "longshore")
        run = os.path.join(environment.get("XDG_RUNTIME_DIR") or f"/tmp/longshore-{uid}", "longshore")
    return Places(
        root=os.path.join(home, "containerd"),
        state=os.path.join(run, "containerd"),
        address=short_address(os.path.join(run, "containerd.sock"), uid=uid),
        log=os.path.join(home, "containerd.log"),
    )


def short_address(path: str, *, uid: int) -> str:
    """The path itself, or, where that is too long for a socket, one made of its hash in a short folder."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        return path
    top = "/run/longshore-s" if uid == 0 else f"/tmp/longshore-s-{uid}"
    return f"{top}/{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.sock"


def main() -> int:
    """Run with sys.argv: 0 after a stop that was asked for, else 1 with the reason on stderr."""
    arguments = _parser().parse_args()
    found = places(arguments.dir, uid=os.geteuid(), environment=os.environ)
    try:
        return _up(found, arguments)
    except (OSError, Failed) as error:
        _say(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longshore up",
        description="Run containerd in the foreground; Ctrl-C stops it, and containers go on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--dir",
        metavar="DIR",
        help=f"keep everything here (as root by default in {ROOT_DIR} and {ROOT_RUN}, else in the XDG folders)",
    )
    parser.add_argument(
        "--stop-containers",
        action="store_true",
        help="at the end stop the containers too, and remove their tasks",
    )
    parser.add_argument("--config", "-c", metavar="FILE", help="containerd's configuration")
    parser.add_argument("--log-level", "-l", metavar="LEVEL", default="info", help="of containerd's log")
    return parser


def _up(found: Places, arguments: argparse.Namespace) -> int:
    for folder in (found.root, found.state):
        os.makedirs(folder, mode=0o711, exist_ok=True)
    os.makedirs(os.path.dirname(found.address), mode=0o711, exist_ok=True)
    with _signals() as wanted, _daemon(found, arguments) as daemon:
        if not _ready(daemon, wanted):
            return 0
        # The one line for standard output: scripts read it. The rest is for people.
        print(f"export CONTAINERD_ADDRESS={shlex.quote(found.address)}", flush=True)
        _say(f"containerd is up, its log is {found.log}; Ctrl-C stops it")
        while not wanted() and daemon.process.poll() is None:
            _pause(daemon)
        if daemon.process.poll() is not None:
            raise Failed(f"containerd ended with {daemon.process.returncode}:\n{tail(found.log)}")
        if arguments.stop_containers:
            stop_containers(found.address)
        return 0


# -- the daemon ---------------------------------------------------------------------------------------------


class Daemon(NamedTuple):
    process: subprocess.Popen[bytes]
    news: socket.socket
    log: str


@contextmanager
def _daemon(found: Places, arguments: argparse.Namespace) -> Iterator[Daemon]:
    """containerd, stopped at the end of the block."""
    flags = ["--root", found.root, "--state", found.state, "--address", found.address]
    flags += ["--log-level", arguments.log_level]
    flags += ["--config", arguments.config] if arguments.config else []
    with tempfile.TemporaryDirectory(prefix="longshore-") as folder, _listener(folder) as (path, news):
        with open(found.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "longshore.containerd.main", *flags],
                env={**os.environ, "NOTIFY_SOCKET": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield Daemon(process, news, found.log)
        finally:
            _end(process)


@contextmanager
def _listener(folder: str) -> Iterator[tuple[str, socket.socket]]:
    """Where the daemon says READY=1, as it would say it to systemd."""
    path = os.path.join(folder, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
        news.bind(path)
        news.settimeout(0.2)
        yield path, news


def _ready(daemon: Daemon, wanted: Callable[[], bool]) -> bool:
    """Wait until the daemon listens; False when we are to stop meanwhile. Raises Failed."""
    deadline = time.monotonic() + STARTING
    while not wanted():
        if b"READY=1" in _pause(daemon).split(b"\n"):
            return True
        if daemon.process.poll() is not None:
            raise Failed(f"containerd ended with {daemon.process.returncode}:\n{tail(daemon.log)}")
        if time.monotonic() > deadline:
            raise Failed(f"containerd isn't ready after {STARTING:.0f} s:\n{tail(daemon.log)}")
    return False


def _pause(daemon: Daemon) -> bytes:
    """A moment, or the daemon's next message."""
    try:
        return daemon.news.recv(4096)
    except TimeoutError:
        return b""


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOPPING)
    except subprocess.TimeoutExpired:
        _say("containerd didn't stop: killed")
        process.kill()
        process.wait()


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """While the block runs, signals only say that we are to stop."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda got, _: seen.append(got)) for number in STOP_SIGNALS}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tail(log: str, lines: int = 15) -> str:
    """The last lines of a log."""
    with open(log, errors="replace") as file:
        return "".join(file.readlines()[-lines:]).rstrip()


# -- containers ---------------------------------------------------------------------------------------------


def stop_containers(address: str) -> None:
    """End every task of every namespace: SIGTERM, `GRACE` seconds, SIGKILL; then forget the tasks.

    The containers' records and file systems stay.
    """
    ctr = Ctr(address)
    tasks = [(space, id) for space in ctr.lines("", "namespaces", "ls", "-q") for id in running(ctr, space)]
    if not tasks:
        return
    _say(f"stopping {len(tasks)} container{'s' * (len(tasks) > 1)}")
    for space, id in tasks:
        ctr.run(space, "tasks", "kill", id)
    deadline = time.monotonic() + GRACE
    spaces = sorted({space for space, _ in tasks})
    while any(running(ctr, space, "RUNNING") for space in spaces) and time.monotonic() < deadline:
        time.sleep(0.1)
    for space in spaces:
        for id in running(ctr, space):
            ctr.run(space, "tasks", "rm", "-f", id)


def running(ctr: Ctr, space: str, status: str = "") -> list[str]:
    """The tasks of a namespace, or those with this status."""
    rows = [line.split() for line in ctr.lines(space, "tasks", "ls")[1:]]
    return [row[0] for row in rows if not status or row[-1] == status]


class Ctr(NamedTuple):
    """ctr, as a process."""

    address: str

    def run(self, space: str, *words: str) -> str:
        """What it prints; what goes wrong it says itself, and we go on."""
        flags = ["--address", self.address, *(["--namespace", space] if space else [])]
        command: Sequence[str] = [sys.executable, "-I", "-m", "longshore.ctr.main", *flags, *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
        )
        return done.stdout

    def lines(self, space: str, *words: str) -> list[str]:
        return self.run(space, *words).splitlines()


def _say(text: str) -> None:
    print(f"longshore up: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
