"""``longshore demo``: the whole stack in a few seconds, on this machine, leaving nothing behind.

Brings our containerd up under a temporary directory, makes an image of the
host's own shell and tools, runs a container of it, looks at it from both
sides, executes into it, waits for its exit. Runs the image once more by
docker, with our dockerd on that containerd, and stops everything. Then it
looks for what could have been left (processes, mounts, cgroups, network
namespaces, files) and says what it found.

The steps are methods of `Demo`, in order; `traces` is the search at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from longshore.api.errors import Error
from longshore.client.spec import with_hostname
from longshore.ctr import traces

if TYPE_CHECKING:
    import socket

    from rich.console import Console

    from longshore.client.sync import Client, Container, Subscription, Task

T = TypeVar("T")

IMAGE = "docker.io/host/tools:latest"
REQUIRED = ("sh", "cat", "ls", "readlink")
WELCOME = ("env", "echo", "grep", "head", "hostname", "id", "mount", "ps", "sleep", "sort", "uname", "wc")

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")

# Runs in the container. It reads a line before it ends, so that there is something to execute into.
SCRIPT = """
echo "Hello from a container: I am process $$ on host $(cat /proc/sys/kernel/hostname)"
echo "Programs in my /bin: $(ls /bin | wc -l 2>/dev/null); my root directory: $(echo /*)"
for name in cgroup ipc mnt net pid time user uts; do echo "namespace $(readlink /proc/self/ns/$name)"; done
read line
exit 7
"""

DOCKER_SCRIPT = 'echo "Hello from docker: I am process $$ on host $(cat /proc/sys/kernel/hostname)"'

START_TIMEOUT = 30  # seconds for the daemon to say that it is ready
STOP_TIMEOUT = 10


class Step(NamedTuple):
    name: str
    seconds: float
    remark: str


class DemoError(Exception):
    """Something that the user should read instead of a traceback."""


PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True}  # one line stays one line, for grep


def missing() -> list[str]:
    """What this machine or user lacks, in words; empty when the demo can run."""
    lacks: list[str] = []
    if sys.platform != "linux":
        return [f"Linux (this is {sys.platform})"]
    if os.geteuid() != 0:
        lacks.append("root: containers need mounts, namespaces and cgroups (try: sudo make run)")
    lacks += [f"the namespace type {name}" for name in ("mnt", "pid", "net") if not _has_namespace(name)]
    lacks += [f"the command {name} on PATH" for name in REQUIRED if shutil.which(name) is None]
    if not os.path.ismount("/sys/fs/cgroup") and not os.path.isdir("/sys/fs/cgroup/memory"):
        lacks.append("a cgroup file system on /sys/fs/cgroup")
    return lacks


def _has_namespace(name: str) -> bool:
    return os.path.exists(f"/proc/self/ns/{name}")


@contextmanager
def daemon(folder: str, program: str, *flags: str) -> Iterator[None]:
    """One of our daemons with everything under `folder`; answers its socket. Stopped at the end of the block.

    It says READY=1 on a socket of ours, as to systemd: no polling.
    """
    import socket

    place, log_path = os.path.join(folder, f"{program}.ready"), os.path.join(folder, f"{program}.log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(log_path, "wb") as log:
        ready.bind(place)
        with ExitStack() as stack:
            with uninterrupted():
                process = subprocess.Popen(
                    [sys.executable, "-m", "longshore.launcher", program, *flags],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={
                        **os.environ,
                        "NOTIFY_SOCKET": place,
                        "TMPDIR": folder,
                    },  # what it leaves goes with us
                    start_new_session=True,  # a Ctrl-C here is ours: we stop it in order
                )
                stack.callback(_stop, process)
            _await_ready(process, ready, program, log_path)
            yield


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def containerd(folder: str) -> Iterator[str]:
    """Our containerd; the address of its socket."""
    address = os.path.join(folder, "c.sock")
    with open(f"{folder}/config.toml", "w") as config:  # not the machine's
        config.write("version = 2\n")
    flags = ("--root", f"{folder}/root", "--state", f"{folder}/state", "--address", address)
    with daemon(folder, "containerd", *flags, "--config", f"{folder}/config.toml"):
        yield address


@contextmanager
def dockerd(folder: str, address: str, cgroup: str, snapshotter: str) -> Iterator[str]:
    """Our dockerd on that containerd, without networks, for which it would change this machine; what is its -H."""
    with open(f"{folder}/daemon.json", "w") as config:
        config.write("{}")
    host = f"unix://{folder}/d.sock"
    flags = [
        *("--host", host, "--data-root", f"{folder}/docker", "--exec-root", f"{folder}/docker-run"),
        *("--pidfile", f"{folder}/docker.pid", "--config-file", f"{folder}/daemon.json"),
        *("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        *("--containerd", address, "--cgroup-parent", f"/{cgroup}", "--storage-driver", snapshotter),
    ]
    with daemon(folder, "dockerd", *flags):
        yield host


def _await_ready(process: subprocess.Popen[bytes], ready: socket.socket, program: str, log: str) -> None:
    import select

    pidfd = os.pidfd_open(process.pid)
    try:
        readable, _, _ = select.select([ready.fileno(), pidfd], [], [], START_TIMEOUT)
    finally:
        os.close(pidfd)
    if ready.fileno() not in readable:
        why = "ended" if readable else f"was not ready after {START_TIMEOUT} s"
        with open(log, errors="replace") as file:
            tail = "".join(file.readlines()[-15:])
        raise DemoError(f"{program} {why}; its log:\n{tail}")


class Demo:
    """The steps, and what they cost."""

    def __init__(self, console: Console, folder: str) -> None:
        self.console = console
        self.folder = folder
        self.namespace = f"demo-{secrets.token_hex(3)}"
        self.snapshotter = traces.snapshotter_for(folder)
        self.steps: list[Step] = []
        self.processes: set[traces.ProcessId] = set()
        self.network: str = ""
        self.network_fd = -1

    def measured(self, name: str, work: Callable[[], T], remark: Callable[[T], str] = lambda _: "") -> T:
        started = time.perf_counter()
        value = work()
        self.steps.append(Step(name, time.perf_counter() - started, remark(value)))
        return value

    def run(self) -> None:
        from longshore.client import Client

        with ExitStack() as stack:
            manager = containerd(self.folder)
            address = self.measured("start containerd", lambda: stack.enter_context(manager))
            self.remember()
            client = stack.enter_context(Client(address, self.namespace))
            subscription = stack.enter_context(client.events.subscribe())
            self.measured("connect, ask its version", client.version, lambda v: v.version)
            self.bring_image(client)
            container = self.measured(
                "create the container",
                lambda: client.containers.create(
                    "hello",
                    with_hostname("longshore"),
                    image=IMAGE,
                    args=("sh", "-c", SCRIPT),
                    snapshotter=self.snapshotter,
                ),
            )
            stack.callback(self.tidy, container)
            self.live(client, container, subscription)
            self.by_docker(address)
        self.show_steps()

    def tidy(self, container: Container) -> None:
        """On the way out, whatever has happened: no task, no container."""
        with contextlib.suppress(Error):
            container.task().destroy()
        with contextlib.suppress(Error):
            container.delete()

    def bring_image(self, client: Client) -> None:
        from longshore.ctr.hostimage import build

        commands = [*REQUIRED, *(name for name in WELCOME if shutil.which(name))]
        path = os.path.join(self.folder, "image.tar")
        with open(path, "w+b") as archive:
            self.measured(
                "pack an image of the host's tools",
                lambda: build(commands, IMAGE, archive),
                lambda b: f"{len(commands)} commands, {b.files} files, {b.layer_size / 1e6:.1f} MB",
            )
            archive.seek(0)
            images = self.measured("import it", lambda: client.images.import_archive(archive))
        self.measured(f"unpack it ({self.snapshotter})", lambda: images[0].unpack(self.snapshotter))

    def live(self, client: Client, container: Container, subscription: Subscription) -> None:
        """The container's life: output, namespaces, exec, exit, events."""
        from longshore.client import PIPE

        with uninterrupted():
            made = self.measured("create its process", lambda: container.create_task(io=PIPE))
        with made as task:
            self.measured("start it", task.start, lambda pid: f"pid {pid}")
            output = self.measured("its first output", lambda: self.read_output(task))
            self.remember(task.pid)
            self.show_output(output)
            self.show_namespaces(output)
            self.execute(task)
            task.stdin.write(b"go\n")
            status = self.measured("let it end", task.wait, lambda s: f"exit status {s.code}")
            if status.code != 7:
                raise DemoError(f"the container should have ended with 7, not {status.code}")
            self.measured("delete task", task.delete)
        self.measured("delete container and snapshot", container.delete)
        self.show_events(client, subscription)

    def by_docker(self, address: str) -> None:
        """The same image once more by way of the Engine API: our dockerd on our containerd, our docker on that."""
        with ExitStack() as stack:
            manager = dockerd(self.folder, address, self.namespace, self.snapshotter)
            host = self.measured("start dockerd on it", lambda: stack.enter_context(manager))
            self.remember()
            archive = os.path.join(self.folder, "image.tar")
            self.measured("docker load", lambda: self.docker(host, "load", "--input", archive))
            os.unlink(archive)
            words = (
                "run",
                "--rm",
                "--network",
                "none",
                "--hostname",
                "longshore",
                IMAGE,
                "sh",
                "-c",
                DOCKER_SCRIPT,
            )
            said = self.measured("docker run --rm", lambda: self.docker(host, *words))
        self.console.print("\n[bold]And by docker[/]")
        for line in said.splitlines():
            self.console.print(f"  {line}", **PLAIN, markup=False)
        if "Hello from docker" not in said:
            raise DemoError("docker run did not print what its container said")

    def docker(self, host: str, *words: str) -> str:
        """Our docker command on that dockerd; what it prints."""
        command = [sys.executable, "-m", "longshore.launcher", "docker", "--host", host, *words]
        with uninterrupted():
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
            )
        if done.returncode:
            raise DemoError(f"docker {words[0]} failed with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def remember(self, pid: int = 0) -> None:
        """Note the processes that we make: ours, and, from a container's, its shim; they must be gone in the end."""
        self.processes |= traces.descendants(os.getpid())
        if pid:
            self.processes |= traces.lineage(pid)
            self.network = traces.namespace(pid, "net")
            if self.network_fd < 0:
                # Held open until all was looked for: the kernel gives a free namespace's number to the next one.
                self.network_fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def read_output(self, task: Task) -> str:
        """All it prints before it waits for us: up to the line of its last namespace."""
        text = b""
        while b"namespace uts:" not in text or not text.endswith(b"\n"):
            block = task.stdout.read_block()
            if not block:
                errors = task.stderr.read().decode(errors="replace")
                raise DemoError(f"the container ended early: {text.decode(errors='replace')}{errors}")
            text += block
        return text.decode()

    def execute(self, task: Task) -> None:
        from longshore.client import Pipes

        def run() -> str:
            with task.exec(
                ("sh", "-c", 'echo "process $$, beside: $(echo /proc/[0-9]*)"'), io=Pipes()
            ) as process:
                process.start()
                output: str = process.stdout.read().decode().strip()
                if process.wait().code:
                    raise DemoError(f"exec failed: {process.stderr.read().decode()}")
                return output

        answer = self.measured("execute a second process in it", run)
        self.console.print(f"\n[bold]Executed in it[/]: {answer}", **PLAIN)

    def show_output(self, output: str) -> None:
        self.console.print("\n[bold]The container says[/]")
        for line in output.splitlines():
            if not line.startswith("namespace "):
                self.console.print(f"  {line}", **PLAIN, markup=False)

    def show_namespaces(self, output: str) -> None:
        from rich.table import Table

        inside = dict(
            line.removeprefix("namespace ").split(":", 1)
            for line in output.splitlines()
            if line.startswith("namespace ") and ":" in line
        )
        table = Table(title="Namespaces", title_justify="left", title_style="bold")
        for column in ("type", "host", "container", ""):
            table.add_column(column)
        for name in NAMESPACES:
            host = traces.namespace(os.getpid(), name).partition(":")[2]
            found = inside.get(name, "")
            table.add_row(name, host, found, "shared" if host == found else "its own")
        self.console.print()
        self.console.print(table)

    def show_events(self, client: Client, subscription: Subscription) -> None:
        """What the daemon told its subscribers, to the end of the container."""
        from longshore.ctr.events import body

        events = []
        for event in subscription:
            if event.namespace == self.namespace:
                events.append(event)
            if event.topic == "/containers/delete" and event.namespace == self.namespace:
                break
        first = events[0].time_ns
        self.console.print("\n[bold]Events[/] (what a subscriber saw)")
        for event in events:
            fields = body(event)
            shown = [f"{key}={shortened(str(fields[key]))}" for key in _SHOWN if fields.get(key)]
            self.console.print(
                f"  {(event.time_ns - first) / 1e6:8.1f} ms  {event.topic:<24}{' '.join(shown)}",
                **PLAIN,
            )
        exits = [body(event) for event in events if event.topic == "/tasks/exit"]
        if {"id": "hello", "exit_status": 7} not in [
            {"id": found.get("id"), "exit_status": found.get("exit_status")} for found in exits
        ]:
            raise DemoError("no event told of the container's exit with status 7")

    def clean(self, before: traces.Survey) -> list[str]:
        """When all is stopped: remove what there is; what should have gone by itself, in words."""
        left = traces.clean(self.folder, self.namespace, self.processes, self.network, before)
        if self.network_fd >= 0:
            os.close(self.network_fd)
        return left

    def show_steps(self) -> None:
        from rich.table import Table

        table = Table(title="What each step cost", title_justify="left", title_style="bold")
        table.add_column("step")
        table.add_column("ms", justify="right")
        table.add_column("")
        for step in self.steps:
            table.add_row(step.name, f"{step.seconds * 1000:.0f}", step.remark)
        self.console.print()
        self.console.print(table)


_SHOWN = ("container_id", "id", "exec_id", "pid", "exit_status", "name", "key", "digest")

GO_ON = """
[bold]How to go on[/]
  . .venv/bin/activate            in each terminal, after `make run`: brings longshore
  longshore up                    in one terminal; Ctrl-C stops the daemon
  export CONTAINERD_ADDRESS=/run/longshore/containerd.sock
  longshore image from-host sh cat tr ls sleep -t host/tools
  longshore ctr run --rm docker.io/host/tools:latest first sh -c 'echo hello; ls /'
  longshore ctr --help            the same commands as the original's
  export DOCKER_HOST=unix:///run/longshore/docker.sock
  longshore docker ps             or the original docker, docker-py, compose
  make test                       everything that is promised, shown
  clients/longshore/client/README.md   the same from your own Python program
"""


INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ignore_interrupts() -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def terminating() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the demo in order; a second one doesn't stop the clean-up."""

    def interrupt(number: int, frame: object) -> None:
        ignore_interrupts()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A first Ctrl-C, SIGTERM or SIGHUP has its effect after the block; a second one at once.

    For calls that the daemon carries out even if nobody waits any more: what comes of them must be known to `tidy`.
    """
    kept: list[int] = []

    def keep(number: int, frame: object) -> None:
        if kept:
            before.clear()  # nothing interrupts the clean-up
            ignore_interrupts()
            raise KeyboardInterrupt
        kept.append(number)

    before = {number: signal.signal(number, keep) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if kept:
        signal.raise_signal(kept[0])


def perform(console: Console) -> int:
    """Run the demo in a fresh directory and clean up; answers the exit status."""
    status, folder, left = 0, "", list[str]()
    with ExitStack() as stack:
        try:
            with uninterrupted():
                before, folder = traces.survey(), tempfile.mkdtemp(prefix="ls-demo-")
                demo = Demo(console, folder)
                stack.callback(lambda: left.extend(demo.clean(before)))
            demo.run()
        except KeyboardInterrupt:
            console.print("\n[bold]Interrupted[/]: stopping and cleaning up")
            status = 130
        except (DemoError, Error, OSError) as error:
            console.print(f"\n[bold red]The demo failed[/]: {error}", **PLAIN, markup=True)
            console.print(_log_tail(folder) if folder else "", **PLAIN, markup=False)
            status = 1
        finally:
            ignore_interrupts()
    if left:
        console.print("\n[bold red]Left behind[/]:")
        for line in left:
            console.print(f"  {line}", **PLAIN, markup=False)
        return status or 1
    console.print(
        "\n[bold green]Nothing is left behind[/]: no process, mount, cgroup, network namespace or file of ours.",
        **PLAIN,
    )
    return status


def shortened(value: str) -> str:
    """Digests in full are for machines."""
    return re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}", r"\1...", value)


def _log_tail(folder: str) -> str:
    """The last lines of each daemon's log."""
    lines: list[str] = []
    for program in ("containerd", "dockerd"):
        with contextlib.suppress(OSError), open(f"{folder}/{program}.log", errors="replace") as file:
            lines += [f"  {program}: {line}" for line in file.readlines()[-10:]]
    return "".join(lines)


def main() -> int:
    """The command; exit status 0 when all went well and nothing is left, 130 when interrupted."""
    lacks = missing()
    if lacks:
        print("longshore demo: this machine or user lacks:", file=sys.stderr)
        for what in lacks:
            print(f"  - {what}", file=sys.stderr)
        return 1
    from rich.console import Console

    console = Console()
    console.print(
        "[bold]Longshore[/]: containerd, shim and runtime in Python. One container, from nothing to nothing."
    )
    with terminating():
        try:
            status = perform(console)
        except KeyboardInterrupt:  # before there was anything to clean up
            status = 130
    if status == 0:
        console.print(GO_ON, **PLAIN)
    return status


if __name__ == "__main__":
    sys.exit(main())
