"""A snapshotter of ours in a process of its own, on a socket, as a proxy plugin for any containerd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from support import process
from support.folders import short_folder

EXAMPLE = "longshore.containerd.proxies.example:CopyDriver"


class Served:
    """``with Served(folder) as served: served.config("copies")``. `stop` and `start` as often as you like."""

    def __init__(self, folder: Path, driver: str = EXAMPLE) -> None:
        self._folder, self._driver = folder, driver
        self.address = folder / "snap.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Served:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "longshore.containerd.proxies.serve", "--driver", self._driver),
                    *("--root", self._folder / "root", "--address", self.address),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process.wait_for_socket(self._process, self.address, self._folder / "log")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)
            self._process.wait()
            self._process = None

    def config(self, name: str) -> str:
        """Lines for config.toml."""
        return f'\n[proxy_plugins.{name}]\ntype = "snapshot"\naddress = "{self.address}"\n'

    def trees(self) -> list[str]:
        """The directories that it holds."""
        return sorted(path.name for path in (self._folder / "root/data").iterdir())


@contextmanager
def served() -> Iterator[Served]:
    with short_folder("snap-") as folder, Served(folder) as running:
        yield running
