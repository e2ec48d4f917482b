"""Debian's containerd, the oracle: on a private host of its own, with its ctr beside it."""

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

from support import ctr, goparts, host, leaks, process
from support.folders import short_folder

CONFIG = """version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"""


class RealContainerd:
    """``with RealContainerd() as real: real.ctr("version")``.

    `programs` (name -> executable) come first on the daemon's PATH: that is
    how our shim stands in for the Go one. Calls use a containerd namespace of
    this daemon's own; its cgroup parents, which runc leaves, are removed at
    the end.
    """

    def __init__(
        self, *, config: str = CONFIG, programs: dict[str, Path] | None = None, scripts: tuple[str, ...] = ()
    ) -> None:
        self._config, self._programs, self._scripts = config, programs or {}, scripts
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.namespace = f"t{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> RealContainerd:
        for part in ("containerd", "ctr", "runc", "containerd-shim-runc-v2"):
            goparts.path(part)
        with self._stack:
            self.folder = self._stack.enter_context(short_folder("real-"))
            self.log, self.address = self.folder / "log", self.folder / "c.sock"
            (self.folder / "config.toml").write_text(self._config)
            (self.folder / "bin").mkdir()
            for name, program in self._programs.items():
                (self.folder / "bin" / name).symlink_to(program)
            self.watch = leaks.Watch([self.folder], [self.namespace])
            self.host = self._stack.enter_context(host.PrivateHost(*self._scripts))
            self.start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._process is not None:
                host.stop(self._process, self.pid)
            self.host.close()
            if error is None:
                self.watch.check(removing_cgroups=True)
            else:
                self.watch.remove_cgroups()
                error.add_note(f"the real containerd's log ends with:\n{process.tail(self.log)}")

    def start(self) -> None:
        """Start the daemon, first or again, and wait until it listens."""
        flags = ["--config", self.folder / "config.toml", "--root", self.folder / "root"]
        flags += ["--state", self.folder / "run", "--address", self.address, "--log-level", "debug"]
        environment = goparts.environment()
        environment["PATH"] = f"{self.folder / 'bin'}:{environment['PATH']}:{Path(sys.executable).parent}"
        environment["TMPDIR"] = str(self.folder)  # a checkpoint's folder is left there
        with open(self.log, "ab") as log:
            self._process = self.host.popen(
                [goparts.path("containerd"), *map(str, flags)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        process.wait_for_socket(self._process, self.address, self.log)
        self.pid = host.child_of(self._process.pid)

    def kill9(self) -> None:
        """SIGKILL the daemon and wait until it is gone; `start` brings it back."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def ctr(self, *words: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Debian's ctr on this daemon. Raises CommandFailed unless `check` is false or the status is 0."""
        if "input" not in options:
            options = {"stdin": subprocess.DEVNULL} | options
        done = self.host.run(self.command(words), **options)
        return ctr.checked(done) if check else done

    go_ctr = ctr  # the name that `Longshore` has for it: tests run on both

    def popen(self, *words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Debian's ctr on this daemon, started and not waited for; `host.innermost` finds its pid."""
        return self.host.popen(self.command(words), **options)

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """A ctr call's command line, to be run by `host`."""
        flags = ["--address", self.address, "--namespace", self.namespace]
        return [str(goparts.path("ctr")), *map(str, flags), *ctr.arguments(words, self.folder / "fifo")]
