"""Cleaning up after a shim that died: kill what it left, delete it, unmount its rootfs.

As the `delete` command of the shim's executable for any containerd, and as a
zygote's worker (`longshore.shim.remove:delete`) for ours.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NamedTuple

from longshore.api.errors import Error
from longshore.linux import files
from longshore.shim import runtime
from longshore.shim.tasks import remove

# Nobody saw how it ended: killed, as far as anyone can tell.
EXIT_STATUS = 128 + signal.SIGKILL


class Removed(NamedTuple):
    """The exit to report. `pid` is 0 when the container was never created."""

    pid: int
    exit_status: int
    exited_at: int


def clean(namespace: str, id: str, bundle: str) -> Removed:
    """Remove a container by what its bundle says. Blocks; raises OSError when the rootfs stays mounted."""
    settings = runtime.load(bundle)
    runner = runtime.choose(settings, namespace, bundle)
    pid = _pid(bundle)
    if pid:
        try:
            runner.kill(id, signal.SIGKILL, all=True)
        except Error as error:
            print(f"shim delete {id}: {error.message}", file=sys.stderr)
    remove(runner, id, bundle, force=True)
    return Removed(pid, EXIT_STATUS, time.time_ns())


def delete(arguments: dict[str, str], fds: list[int]) -> dict[str, int]:
    """A zygote's worker: arguments namespace, id, bundle; answers pid, exit_status, exited_at (ns)."""
    del fds
    return clean(arguments["namespace"], arguments["id"], arguments["bundle"])._asdict()


def _pid(bundle: str) -> int:
    try:
        return int(files.read_bounded(os.path.join(bundle, "init.pid"), 32))
    except (OSError, ValueError):
        return 0
