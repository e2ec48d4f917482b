"""A private host for parts that insist on fixed paths: own mounts with an empty /run, own network, own pids.

The Go parts keep state below /run whatever their flags say (shim sockets,
runc's state, FIFOs), so that two of them, or one and a test, meet there. Its
first process is a small Python that reaps what it adopts and ends when the
pipe to us closes; with it, by the rules of pid namespaces, ends everything
else in there, even when the test run itself is killed.

Cgroups are not private: the makers of cgroups remove them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

FIRST_PROCESS = """
import fcntl, signal, socket, struct, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
print("ready", flush=True)
sys.stdin.read()
"""
NAMESPACES = ("--mount", "--net", "--pid")


class PrivateHost:
    """``with PrivateHost() as host: host.run(["mount"])``; `scripts` are shell lines run before anything else."""

    def __init__(self, *scripts: str) -> None:
        self._scripts = ("mount -t tmpfs -o mode=755 tmpfs /run", *scripts)
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def __enter__(self) -> PrivateHost:
        setup = " && ".join((*self._scripts, 'exec "$0" -I -S -c "$1"'))
        unshare = [
            "unshare",
            *NAMESPACES,
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ]
        self._process = process = subprocess.Popen(
            [*unshare, "sh", "-c", setup, sys.executable, FIRST_PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            self.close()
            raise RuntimeError("the private host did not start")
        self.pid = child_of(process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._process = None

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """`command`, prefixed so that it runs in here."""
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, "--", *(os.fspath(word) for word in command)]

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "timeout": 120, "check": False} | options
        return subprocess.run(self.inside(command), **options)

    def popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.inside(command), **options)


def child_of(pid: int) -> int:
    """The only child of `pid` (what `unshare --fork` and `nsenter` started). Raises LookupError without one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if len(children) != 1:
        raise LookupError(f"process {pid} has {len(children)} children")
    return int(children[0])


def innermost(pid: int) -> int:
    """The process at the end of a chain of only children: behind `nsenter`, the program it entered with."""
    while True:
        try:
            pid = child_of(pid)
        except LookupError:
            return pid


def stop(process: subprocess.Popen[bytes], target: int, within: float = 60) -> int:
    """SIGTERM to `target`, SIGKILL when it takes longer than `within` seconds; the status of `process`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(target, number)
        except ProcessLookupError:
            pass
        try:
            return process.wait(within)
        except subprocess.TimeoutExpired:
            continue
    return process.wait()
