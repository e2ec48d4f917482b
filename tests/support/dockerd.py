"""A dockerd on a containerd, ours or Debian's, both on one private host, with the docker CLI and compose.

Here are what all dockerds have in common, and Debian's; ours is in
`support.ourdockerd`. Images and containers of dockerd lie on a tmpfs of the
private host, so they go with it; cgroups do not, and are searched for by the
parent that all of a daemon's containers share.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from support import ctr, goparts, host, images, leaks, process
from support.daemon import Longshore
from support.folders import short_folder
from support.realdaemon import RealContainerd

PARTS = ("dockerd", "docker", "docker-proxy", "docker-init", "runc", "busybox", "iptables", "ip6tables")
BUSYBOX = "busybox:latest"
NAMESPACE = "moby"  # containerd's, of all that dockerd starts


def own_etc(folder: Path) -> str:
    """A script for a private host: an /etc that can be written to and is thrown away, where the loader knows the
    unpacked libraries. dockerd's hook is its own executable, without the environment that we start it in.
    """
    cache, listing = folder / "ld.so.cache", folder / "ld.so.conf"
    listing.write_text("\n".join(["include /etc/ld.so.conf", *goparts.library_folders()]) + "\n")
    subprocess.run(["/sbin/ldconfig", "-X", "-C", cache, "-f", listing], check=True, capture_output=True)
    layers = "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work"
    overlay = f"mkdir -p /run/etc/upper /run/etc/work && mount -t overlay -o {layers} overlay /etc"
    return f"{overlay} && cp {cache} /etc/ld.so.cache"


class AnyDockerd(ABC):
    """``with Dockerd() as docker: docker("run", "--rm", BUSYBOX, "true")``.

    `containerd` is whose containerd is below it: "longshore" or "real";
    `flags` are more of dockerd's, and `config` is its daemon.json; `cli` is
    another docker than Debian's. `docker.containerd` and `docker` itself have `kill9` and `start`.
    """

    parts: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        containerd: str = "longshore",
        *,
        flags: Sequence[str | Path] = (),
        config: dict[str, Any] | None = None,
        cli: Path | None = None,
    ) -> None:
        self._kind, self._flags, self._config = containerd, [str(flag) for flag in flags], config or {}
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.cgroup = f"t{uuid.uuid4().hex[:8]}"
        self.pid = 0
        self.cli, self.busybox = cli or goparts.path("docker"), goparts.path("busybox")

    @abstractmethod
    def _program(self) -> list[str | Path]:
        """The executable and the flags that only this dockerd has."""

    @abstractmethod
    def _first_start(self) -> None:
        """`start`, and see to it that there is an image BUSYBOX."""

    def __enter__(self) -> Self:
        for part in self.parts:
            goparts.path(part)
        with self._stack:
            self.folder = self._stack.enter_context(short_folder("dk-"))
            self.socket, self.log = self.folder / "d.sock", self.folder / "log"
            (self.folder / "daemon.json").write_text(json.dumps(self._config))
            self.watch = leaks.Watch([self.folder], [self.cgroup])
            self._stack.push(self._leaves_nothing)
            self.containerd = self._start_containerd()
            self._stack.callback(self._end)
            self._first_start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"dockerd's log ends with:\n{process.tail(self.log)}")
        self._stack.__exit__(kind, error, trace)

    def _start_containerd(self) -> Longshore | RealContainerd:
        script = own_etc(self.folder)
        if self._kind == "real":
            real = self._stack.enter_context(RealContainerd(scripts=(script,)))
            self.host = real.host
            return real
        self.host = self._stack.enter_context(host.PrivateHost(script))
        return self._stack.enter_context(Longshore(inside=self.host))

    def start(self) -> None:
        """Start dockerd, first or again, and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        flags: list[str | Path] = ["--host", f"unix://{self.socket}", "--pidfile", self.folder / "d.pid"]
        flags += ["--config-file", self.folder / "daemon.json", "--cgroup-parent", f"/{self.cgroup}"]
        flags += ["--data-root", "/run/d", "--exec-root", "/run/docker"]
        flags += ["--containerd", self.containerd.address, *self._flags]
        with open(self.log, "ab") as log:
            started = self.host.popen(
                [*self._program(), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=goparts.environment(),
            )
        process.wait_for_socket(started, self.socket, self.log)
        self.pid, self._process = host.child_of(started.pid), started
        self("version")

    def stop(self) -> int:
        """SIGTERM, and the exit status. Without live-restore it stops its containers first."""
        assert self._process is not None
        status = host.stop(self._process, self.pid)
        self._process = None
        return status

    def kill9(self) -> None:
        """SIGKILL dockerd and wait until it is gone; `start` brings it back."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """dockerd does nothing in here: what a busy machine does to it, made certain."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)
            self._process.send_signal(signal.SIGCONT)  # nsenter stops when its child does

    def __call__(
        self, *words: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """The docker CLI on this daemon. Raises CommandFailed unless `check` is false or the status is 0."""
        return self.call([self.cli, *words], check=check, **options)

    def compose(self, file: Path, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """docker-compose 1.29 on this daemon with the file `file`."""
        return self.call([goparts.path("docker-compose"), "--no-ansi", "--file", file, *words], check=check)

    def call(
        self, command: Sequence[str | Path], *, check: bool = True, inside: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Any client of dockerd, told by its environment where that listens; with `inside` it runs on the private
        host, and reaches its addresses.
        """
        if inside:
            command = self.host.inside(command)
        options = {"capture_output": True, "text": True, "timeout": 120, "env": self.environment()} | options
        if "input" not in options:
            options = {"stdin": subprocess.DEVNULL} | options
        done = subprocess.run([str(word) for word in command], check=False, **options)
        return ctr.checked(done) if check else done

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.folder / "cli"),
            "COMPOSE_HTTP_TIMEOUT": "120",
        }

    def inspect(self, name: str, field: str) -> str:
        """One field of a container, as ``docker inspect --format`` writes it."""
        return self("inspect", "--type", "container", "--format", f"{{{{{field}}}}}", name).stdout.strip()

    def running(self) -> set[str]:
        """The names of the containers that dockerd believes to run."""
        return set(self("ps", "--format", "{{.Names}}").stdout.split())

    def clean(self) -> None:
        """Remove every container, and the tasks that dockerd has forgotten.

        It asks once for an ended task to be deleted, and when containerd is
        killed just then it says so in its log and leaves the task there.
        """
        if names := self("ps", "--all", "--quiet").stdout.split():
            self("rm", "--force", "--volumes", *names)
        self._remove_tasks()

    def _remove_tasks(self, *how: str) -> None:
        moby = ("--namespace", NAMESPACE)
        for name in ctr.column(self.containerd.go_ctr(*moby, "tasks", "ls").stdout):
            # It answers with their exit status.
            self.containerd.go_ctr(*moby, "tasks", "rm", *how, name, check=False)
            self.containerd.go_ctr(*moby, "containers", "rm", name)

    def _end(self) -> None:
        if self._process is None:
            return
        try:
            self.clean()
        except BaseException:
            self._remove_tasks("--force")
            raise
        finally:
            self.stop()

    def _leaves_nothing(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if self._kind == "real" or error is not None:
            self.watch.remove_cgroups()  # Go's runc leaves the parent
        if error is None:
            self.watch.check()
        return False


class Dockerd(AnyDockerd):
    """Debian's dockerd 20.10."""

    parts = PARTS

    def _program(self) -> list[str | Path]:
        return [goparts.path("dockerd"), "--storage-driver", "overlay2"]

    def _first_start(self) -> None:
        self.start()
        layer = self.folder / "busybox.tar"
        layer.write_bytes(images.busybox_layer())
        self("import", "-c", "ENV PATH=/bin", "-c", 'CMD ["sh"]', layer, BUSYBOX)
