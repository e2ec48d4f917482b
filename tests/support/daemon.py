"""Our containerd, started for a test and looked after until nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from support import ctr, goparts, gostate, host, leaks, process
from support.folders import short_folder

LONGSHORE = Path(sys.executable).parent / "longshore"

# For either daemon: a collection in the middle of a test would take what no lease holds.
NO_COLLECTION = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "1h"
schedule_delay = "1h"
"""

# Likewise, but whoever asks for a collection and waits has it at once. What counts is the interval, hours here.
COLLECTION_WHEN_ASKED = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "1h"
pause_threshold = 0.0000001
mutation_threshold = 0
"""

# What a shim's executable has time for is seconds by default: too few on a machine with much else to do, and then
# the end of a container whose shim died is told as unknown (255).
PATIENT = """
[timeouts]
"io.containerd.timeout.shim.cleanup" = "60s"
"io.containerd.timeout.shim.load" = "60s"
"io.containerd.timeout.task.state" = "60s"
"""


class Longshore:
    """``with Longshore() as daemon: daemon.go_ctr("version")``.

    Everything lies in one short folder, and every ctr call uses a containerd
    namespace of this daemon's own, because the namespace is a directory of the
    one cgroup tree that all tests share. Leaving the block stops the daemon,
    removes what tasks are left when `clean_up` is true, and fails when
    anything that belongs to it is still there.

    With `inside` it runs in that `PrivateHost`. `go_runtimes` says that runc or
    crun work for it: they leave cgroup parents, which are removed; ours must not.
    `program` is what runs instead of the installed `longshore`. A `config` without timeouts gets long ones.
    """

    def __init__(
        self,
        *,
        config: str = "",
        inside: host.PrivateHost | None = None,
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        go_runtimes: bool = False,
        program: Sequence[str | Path] = (LONGSHORE,),
    ) -> None:
        self._config, self._inside, self._arguments = config, inside, list(arguments)
        self._program = list(map(str, program))
        self._environment, self._go_runtimes = environment or {}, go_runtimes
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.namespace = f"t{uuid.uuid4().hex[:8]}"
        self.pid = 0

    def __enter__(self) -> Longshore:
        self.folder = self._stack.enter_context(short_folder())
        self.address = self.folder / "c.sock"
        self.root, self.state, self.log = self.folder / "root", self.folder / "run", self.folder / "log"
        config = self._config or "version = 2\n"
        (self.folder / "config.toml").write_text(config + ("" if "[timeouts]" in config else PATIENT))
        self.watch = leaks.Watch([self.folder], [self.namespace])
        try:
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            try:
                if self._process is not None:
                    self._remove_tasks()
                    self.stop()
                if self._go_runtimes:
                    gostate.remove(self.namespace)
                self.watch.check(removing_cgroups=self._go_runtimes)
            except BaseException:
                self._put_away()
                if error is None:
                    print(process.tail(self.log), file=sys.stderr)
                    raise
            if error is not None:
                error.add_note(f"the daemon's log ends with:\n{process.tail(self.log)}")

    def start(self) -> None:
        """Start the daemon, first or again, and wait until it listens."""
        flags = ["--config", self.folder / "config.toml", "--root", self.root, "--state", self.state]
        command = [*self._program, "containerd", *map(str, flags), "--address", str(self.address)]
        command += ["--log-level", "debug", *self._arguments]
        if self._inside is not None:
            command = self._inside.inside(command)
        with open(self.log, "ab") as log:
            self._process = started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**goparts.environment(), **self._environment},
            )
        process.wait_for_socket(started, self.address, self.log)
        self.pid = started.pid if self._inside is None else host.child_of(started.pid)

    def runs(self, program: Sequence[str | Path], environment: dict[str, str]) -> None:
        """What the next `start` starts: another version on the same folder."""
        self._program, self._environment = list(map(str, program)), environment

    def stop(self) -> int:
        """SIGTERM, and the exit status; containers go on."""
        assert self._process is not None
        status = host.stop(self._process, self.pid)
        self._process = None
        return status

    def kill9(self) -> None:
        """SIGKILL the daemon and wait until it is gone; `start` brings it back."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def ctr(self, *words: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Our ctr on this daemon. Raises CommandFailed unless `check` is false or the status is 0."""
        return self._call([LONGSHORE, "ctr"], words, check, options)

    def go_ctr(
        self, *words: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Debian's ctr on this daemon, likewise."""
        return self._call([goparts.path("ctr")], words, check, options)

    def popen(self, *words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Debian's ctr on this daemon, started and not waited for."""
        return subprocess.Popen(self.command([goparts.path("ctr")], words), **options)

    def command(self, program: Sequence[str | Path], words: Sequence[str | Path]) -> list[str]:
        """The whole command line of a ctr call, for tests that start it themselves."""
        flags = ["--address", self.address, "--namespace", self.namespace]
        line = [*map(str, program), *map(str, flags), *ctr.arguments(words, self.folder / "fifo")]
        return line if self._inside is None else self._inside.inside(line)

    def _call(
        self, program: Sequence[str | Path], words: Sequence[str | Path], check: bool, options: dict[str, Any]
    ) -> subprocess.CompletedProcess[str]:
        options = {
            "capture_output": True,
            "text": True,
            "timeout": 120,
            "stdin": subprocess.DEVNULL,
        } | options
        if "input" in options:
            del options["stdin"]
        done = subprocess.run(self.command(program, words), check=False, **options)
        return ctr.checked(done) if check else done

    def _remove_tasks(self) -> None:
        """Tasks that a test left running on purpose; every other leftover is the leak check's to report."""
        for task in ctr.column(self.ctr("tasks", "ls", check=False).stdout):
            self.ctr("tasks", "kill", "-s", "KILL", task, check=False)
            self.ctr("tasks", "rm", "-f", task, check=False)

    def _put_away(self) -> None:
        """After a failure: end what is ours by pid, and unmount, so that the next test starts clean."""
        if self._process is not None:
            self.kill9()
        for pid in self.watch.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        with open("/proc/self/mountinfo") as table:
            targets = [line.split(" ")[4] for line in table]
        for target in reversed(targets):
            if target.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", target], check=False, capture_output=True)
        self.watch.remove_cgroups()
