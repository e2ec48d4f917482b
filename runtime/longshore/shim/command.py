"""A foreign OCI runtime (runc, crun, ...) by its command line.

Runs in a worker. The runtime's own death follows the worker's (pdeathsig), and
its errors are the last error line of the JSON log it is asked to write.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from typing import NoReturn

from longshore.linux import files, processes
from longshore.shim import stats
from longshore.shim.runtime import Image, Made, RuntimeFailure

_DEFAULTS = (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Command:
    """Implements `longshore.shim.runtime.Runtime`."""

    def __init__(self, binary: str, root: str, bundle: str, *, systemd_cgroup: bool) -> None:
        self._log = f"{bundle}/log.json"
        self._arguments = [binary, "--root", root, "--log", self._log, "--log-format", "json"]
        if systemd_cgroup:
            self._arguments.append("--systemd-cgroup")

    def create(self, bundle: str, id: str, *, console: str, no_pivot: bool, no_new_keyring: bool) -> int:
        pid_file = f"{bundle}/init.pid"
        arguments = ["create", "--bundle", bundle, "--pid-file", pid_file]
        if console:
            arguments += ["--console-socket", console]
        if no_pivot:
            arguments.append("--no-pivot")
        if no_new_keyring:
            arguments.append("--no-new-keyring")
        self._run([*arguments, id], "create", keep_output=True)
        return _pid(pid_file)

    def made(self, id: str, pid: int) -> Made:
        paths, version = stats.find(pid)
        return Made(paths, version, "")

    def start(self, id: str) -> None:
        self._run(["start", id], "start")

    def execute(self, bundle: str, id: str, exec_id: str, process: bytes, *, console: str) -> int:
        pid_file = f"{bundle}/{exec_id}.pid"
        spec = f"{bundle}/{exec_id}.json"
        files.replace_file(spec, process)
        try:
            arguments = ["exec", "--process", spec, "--detach", "--pid-file", pid_file]
            if console:
                arguments += ["--console-socket", console]
            self._run([*arguments, id], "exec", keep_output=True)
            return _pid(pid_file)
        finally:
            os.unlink(spec)

    def kill(self, id: str, signal: int, *, all: bool) -> None:
        self._run(["kill", *(["--all"] if all else []), id, str(signal)], "kill")

    def delete(self, id: str, *, force: bool) -> None:
        self._run(["delete", *(["--force"] if force else []), id], "delete")

    def pause(self, id: str) -> None:
        self._run(["pause", id], "pause")

    def resume(self, id: str) -> None:
        self._run(["resume", id], "resume")

    def update(self, id: str, resources: bytes) -> None:
        self._run(["update", "--resources=-", id], "update", stdin=resources)

    def pids(self, id: str) -> list[int]:
        found: list[int] | None = json.loads(self._run(["ps", "--format", "json", id], "ps"))
        return found or []

    def checkpoint(self, id: str, image: Image, *, leave_running: bool) -> None:
        rest = ["--leave-running"] if leave_running else []
        self._run(["checkpoint", *_criu(image), *rest, id], "checkpoint")

    def restore(self, bundle: str, id: str, image: Image) -> int:
        pid_file = f"{bundle}/init.pid"
        words = [
            "restore",
            *_criu(image),
            "--detach",
            "--no-subreaper",
            "--bundle",
            bundle,
            "--pid-file",
            pid_file,
        ]
        self._run([*words, id], "restore", keep_output=True)
        return _pid(pid_file)

    def _run(
        self, arguments: Sequence[str], verb: str, *, stdin: bytes = b"", keep_output: bool = False
    ) -> bytes:
        """Execute and wait; its output (none with `keep_output`: then 0, 1, 2 are the container's)."""
        try:
            os.unlink(self._log)
        except FileNotFoundError:
            pass
        source = files.memfd("stdin")
        os.write(source, stdin)
        os.lseek(source, 0, os.SEEK_SET)
        output = files.memfd("output")
        pid = os.fork()
        if pid == 0:
            _execute([*self._arguments, *arguments], None if keep_output else (source, output, output))
        _, status = os.waitpid(pid, 0)
        os.lseek(output, 0, os.SEEK_SET)
        data = files.read_fd(output, 16 << 20)
        os.close(source)
        os.close(output)
        if status:
            raise RuntimeFailure(f"OCI runtime {verb} failed: {self._reason(status, data)}")
        return data

    def _reason(self, status: int, output: bytes) -> str:
        reason = ""
        try:
            log = files.read_bounded(self._log)
        except OSError:
            log = b""
        for line in log.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") == "error":
                reason = str(entry.get("msg", ""))
        if reason:
            return reason.strip()
        code = os.waitstatus_to_exitcode(status)
        if code == 127:
            return f"unable to execute {self._arguments[0]}"
        text = output.decode(errors="replace").strip()
        return f"{text or 'unable to retrieve OCI runtime error'}: exit status {code}"


def _criu(image: Image) -> list[str]:
    words = ["--image-path", image.path, "--work-path", image.work]
    words += [f"--{flag}" for flag in image.flags]
    words += ["--manage-cgroups-mode", image.cgroups_mode] if image.cgroups_mode else []
    return words + [word for name in image.empty_namespaces for word in ("--empty-ns", name)]


def _execute(arguments: list[str], stdio: Sequence[int] | None) -> NoReturn:
    try:
        processes.set_pdeathsig(signal.SIGKILL)
        for number in _DEFAULTS:
            signal.signal(number, signal.SIG_DFL)
        for target, fd in enumerate(stdio or ()):
            os.dup2(fd, target)
        os.execvp(arguments[0], arguments)
    finally:
        os._exit(127)


def _pid(path: str) -> int:
    return int(files.read_bounded(path, 32))
