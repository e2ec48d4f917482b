"""ps: the processes of a container."""

from __future__ import annotations

import os
import sys

from longshore.oci import codec, state
from longshore.oci.cli import VALUE
from longshore.oci.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.oci.cli import Call


def pids(root: str, id: str) -> list[int]:
    """The pids of all its processes, as the host counts them; [] when it has stopped."""
    container = state.load(root, id)
    container.require("ps")
    if not container.cgroup_paths:
        raise RuntimeFailure("unable to get all container pids: the container has no cgroup")
    return container.cgroup.procs()


FLAGS = {"format f": VALUE}
ARGUMENTS = (1, None)


def main(call: Call) -> int:
    """``runc ps [--format table|json] ID [PS OPTION...]``"""
    form = call.value("format", "table")
    if form not in ("table", "json"):
        raise RuntimeFailure("invalid format option")
    found = pids(call.root, call.arguments[0])
    if form == "json":
        sys.stdout.write(codec.dumps(found) + "\n")
        return 0
    return _table(found, call.arguments[1:] or ["-ef"])


def _table(wanted: list[int], options: list[str]) -> int:
    """The lines of ps(1) that show one of these pids."""
    read, write = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
    pid = os.posix_spawnp("ps", ["ps", *options], dict(os.environ), file_actions=actions)
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as output:
        lines = output.read().splitlines()
    if os.waitpid(pid, 0)[1] or not lines:
        raise RuntimeFailure(f"ps {' '.join(options)} failed")
    if "PID" not in lines[0].split():
        raise RuntimeFailure("couldn't find PID field in ps output")
    column = lines[0].split().index("PID")
    shown = [
        line for line in lines[1:] if line.split()[column].isdecimal() and int(line.split()[column]) in wanted
    ]
    sys.stdout.write("\n".join([lines[0], *shown]) + "\n")
    return 0
