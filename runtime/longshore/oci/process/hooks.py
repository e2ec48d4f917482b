"""Hooks: programs of others, run with the container's state on standard input.

Input and output are memfds, so that neither a hook that reads nothing nor one
that prints a lot can block us.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` imports enum: 5 ms
import os
import select

from longshore.linux import files, processes
from longshore.oci.errors import HookFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_SHOWN = 2048


def run(kind: str, hooks: Sequence[dict[str, Any]], state: bytes) -> None:
    """Run all hooks of a kind in their order; HookFailed at the first that fails or takes too long."""
    for number, hook in enumerate(hooks):
        try:
            _run_one(hook, state)
        except HookFailed as error:
            raise HookFailed(f"error running {kind} hook #{number}: {error}") from None


def _run_one(hook: dict[str, Any], state: bytes) -> None:
    path = hook.get("path") or ""
    arguments = hook.get("args") or [path]
    environment = dict(_pair(word) for word in hook["env"]) if hook.get("env") else dict(os.environ)
    stdin, stdout, stderr = (files.memfd(name) for name in ("state", "stdout", "stderr"))
    try:
        os.write(stdin, state)
        os.lseek(stdin, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((stdin, stdout, stderr))]
        try:
            # Python ignores SIGPIPE and SIGXFSZ, and the shim blocks signals: neither is for a hook to inherit.
            pid = os.posix_spawn(
                path,
                arguments,
                environment,
                file_actions=actions,
                setpgroup=0,
                setsigmask=(),
                setsigdef=(13, 25),
            )
        except OSError as error:
            raise HookFailed(f"fork/exec {path}: {(error.strerror or '').lower()}") from None
        failure = _wait(pid, hook.get("timeout"))
        if failure and "timeout" in failure:
            raise HookFailed(failure)
        if failure:
            shown = [files.read_bounded_at(fd, _SHOWN).decode(errors="replace") for fd in (stdout, stderr)]
            raise HookFailed(f"{failure}, stdout: {shown[0]}, stderr: {shown[1]}")
    finally:
        for fd in (stdin, stdout, stderr):
            os.close(fd)


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value


def _wait(pid: int, timeout: float | None) -> str:
    """Why the hook failed, "" if it didn't."""
    overdue = False
    if timeout:
        pidfd = processes.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(timeout * 1000):
                overdue = True
                # Its group: a shell's children would outlive it. (Not reaped yet, so that the number is its own.)
                os.killpg(pid, 9)
        finally:
            os.close(pidfd)
    status = os.waitpid(pid, 0)[1]
    if overdue:
        return f"hook ran past specified timeout of {timeout:.1f}s"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"signal: {(_signal.strsignal(number) or str(number)).lower()}"
    code = os.WEXITSTATUS(status)
    return f"exit status {code}" if code else ""
