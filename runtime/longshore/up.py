"""``longshore up``: containerd and dockerd in the foreground, with everything in one folder.

    longshore up --dir ./stack

Starts processes and does nothing itself, so it imports none of the parts. The
daemons run in sessions of their own: Ctrl-C reaches us alone, and we end them
in order. Containers go on, and the next `up` on the same folder finds them;
``--stop-containers`` ends them first.
"""

from __future__ import annotations

import argparse
import fcntl
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

LOCK: Final = "longshore.lock"  # containerd's, in its root; with its pid

# A sockaddr_un has 108 bytes, one of them the NUL; the daemon's second socket adds ".ttrpc".
LONGEST_ADDRESS: Final = 107 - len(".ttrpc")

STARTING: Final = 60.0  # seconds for the daemon to say that it is ready
STOPPING: Final = 40.0  # seconds after SIGTERM, until SIGKILL; dockerd may stop containers meanwhile
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
    docker_root: str
    docker_state: str
    docker: str
    """Path of dockerd's socket."""
    docker_log: str
    docker_config: str


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
        docker_root=os.path.join(home, "docker"),
        docker_state=os.path.join(run, "docker"),
        docker=short_address(os.path.join(run, "docker.sock"), uid=uid),
        docker_log=os.path.join(home, "dockerd.log"),
        docker_config=os.path.join(home, "daemon.json"),
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
        description="Run containerd and dockerd in the foreground; Ctrl-C stops them, and containers go on.",
        epilog="What comes after -- are flags for dockerd.",
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
    parser.add_argument("--log-level", "-l", metavar="LEVEL", default="info", help="of the daemons' logs")
    parser.add_argument("--no-dockerd", action="store_true", help="run containerd alone")
    parser.add_argument("dockerd_flags", nargs="*", metavar="FLAG", help=argparse.SUPPRESS)
    return parser


def _up(found: Places, arguments: argparse.Namespace) -> int:
    for folder in (found.root, found.state, os.path.dirname(found.address)):
        _make(folder)
    _refuse_second(found.root)
    with _signals() as wanted, _daemon(_containerd(found, arguments)) as containerd:
        if not _ready(containerd, wanted):
            return 0
        with _dockerd(found, arguments) as dockerd:
            running = [containerd, *([dockerd] if dockerd else [])]
            if dockerd and not _ready(dockerd, wanted):
                return 0
            _announce(found, running)
            _watch(running, wanted)
            if arguments.stop_containers and (count := len(tasks(Ctr(found.address)))):
                # Counted before dockerd ends, which stops its own.
                _say(f"stopping {count} container{'s' * (count > 1)}")
        if arguments.stop_containers:
            stop_containers(found.address)
        return 0


def _make(folder: str) -> None:
    """Raises Failed, with what to do."""
    try:
        os.makedirs(folder, mode=0o711, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise Failed(f"{folder} can't be made, a file is in its place: give another --dir") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Failed(f"{folder} can't be made: {reason}; give another --dir") from None


def _refuse_second(root: str) -> None:
    """Raise Failed if a daemon works there: it would refuse as well, but knows nothing of --dir."""
    try:
        descriptor = os.open(os.path.join(root, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # the first start; or the daemon will say what is wrong
        return
    with open(descriptor) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = lock.read().strip() or "unknown"
            home = os.path.dirname(root)
            raise Failed(
                f"{home} is in use by another containerd (pid {owner}): stop it, or give another --dir"
            ) from None


def _announce(found: Places, running: Sequence[Daemon]) -> None:
    # These lines are for standard output: scripts read them. The rest is for people.
    print(f"export CONTAINERD_ADDRESS={shlex.quote(found.address)}", flush=True)
    if len(running) > 1:
        print(f"export DOCKER_HOST={shlex.quote(f'unix://{found.docker}')}", flush=True)
    for daemon in running:
        _say(f"{daemon.name} is up, its log is {daemon.log}")
    _say("Ctrl-C stops" + (" them" if len(running) > 1 else " it"))


def _watch(running: Sequence[Daemon], wanted: Callable[[], bool]) -> None:
    """Until we are told to stop. Raises Failed when a daemon ends by itself."""
    while not wanted():
        for daemon in running:
            _pause(daemon)
            daemon.must_run()


# -- the daemons --------------------------------------------------------------------------------------------


class Program(NamedTuple):
    """`module` is run with `flags`; what it prints goes to the file `log`."""

    name: str
    module: str
    flags: Sequence[str]
    log: str


class Daemon(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]
    news: socket.socket
    log: str
    start: int
    """Where this one's lines begin in the log."""

    def must_run(self) -> None:
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.returncode}:\n{tail(self.log, self.start)}")


def _containerd(found: Places, arguments: argparse.Namespace) -> Program:
    flags = ["--root", found.root, "--state", found.state, "--address", found.address]
    flags += ["--log-level", arguments.log_level]
    flags += ["--config", arguments.config] if arguments.config else []
    return Program("containerd", "longshore.containerd.main", flags, found.log)


@contextmanager
def _dockerd(found: Places, arguments: argparse.Namespace) -> Iterator[Daemon | None]:
    """dockerd for the block; None for who doesn't want it or isn't root."""
    if not arguments.no_dockerd and os.geteuid() != 0:
        _say("dockerd needs root: not started")
    if arguments.no_dockerd or os.geteuid() != 0:
        yield None
        return
    flags = ["--data-root", found.docker_root, "--exec-root", found.docker_state]
    flags += ["--host", f"unix://{found.docker}", "--pidfile", f"{found.docker_state}/dockerd.pid"]
    flags += ["--containerd", found.address, "--log-level", arguments.log_level]
    # Not /etc/docker/daemon.json: that is another engine's, whose networks and folders we leave alone.
    flags += ["--config-file", found.docker_config if os.path.exists(found.docker_config) else os.devnull]
    if arguments.stop_containers:
        flags += ["--live-restore=false"]
    with _daemon(
        Program("dockerd", "longshore.dockerd.main", flags + arguments.dockerd_flags, found.docker_log)
    ) as daemon:
        yield daemon


@contextmanager
def _daemon(program: Program) -> Iterator[Daemon]:
    """It runs while the block does."""
    with tempfile.TemporaryDirectory(prefix="longshore-") as folder, _listener(folder) as (path, news):
        with open(program.log, "ab") as log:
            start = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", program.module, *program.flags],
                env={**os.environ, "NOTIFY_SOCKET": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield Daemon(program.name, process, news, program.log, start)
        finally:
            _end(program.name, process)


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
        daemon.must_run()
        if time.monotonic() > deadline:
            raise Failed(
                f"{daemon.name} isn't ready after {STARTING:.0f} s:\n{tail(daemon.log, daemon.start)}"
            )
    return False


def _pause(daemon: Daemon) -> bytes:
    """A moment, or the daemon's next message."""
    try:
        return daemon.news.recv(4096)
    except TimeoutError:
        return b""


def _end(name: str, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOPPING)
    except subprocess.TimeoutExpired:
        _say(f"{name} didn't stop: killed")
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


def tail(log: str, start: int, lines: int = 15) -> str:
    """The last lines of what was logged after byte `start`."""
    with open(log, "rb") as file:
        file.seek(start)
        return b"".join(file.readlines()[-lines:]).decode(errors="replace").rstrip()


# -- containers ---------------------------------------------------------------------------------------------


def stop_containers(address: str) -> None:
    """End every task of every namespace: SIGTERM, `GRACE` seconds, SIGKILL; then forget the tasks.

    The containers' records and file systems stay.
    """
    ctr = Ctr(address)
    found = tasks(ctr)
    for space, id in found:
        ctr.run(space, "tasks", "kill", id)
    deadline = time.monotonic() + GRACE
    spaces = sorted({space for space, _ in found})
    while any(running(ctr, space, "RUNNING") for space in spaces) and time.monotonic() < deadline:
        time.sleep(0.1)
    for space in spaces:
        for id in running(ctr, space):
            ctr.run(space, "tasks", "rm", "-f", id)


def tasks(ctr: Ctr) -> list[tuple[str, str]]:
    """Namespace and id of each."""
    return [(space, id) for space in ctr.lines("", "namespaces", "ls", "-q") for id in running(ctr, space)]


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
