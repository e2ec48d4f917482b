"""A runtime that is killed between any two steps of a verb: what is left can be deleted, and nothing is left then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.bundles import Bundle
from support.process import eventually

FOREVER = "while :; do sleep 1000; done"
# Runs a verb in a process that is killed when the step that is named has been done.
VERB = """
import os, sys
from longshore.linux import files
from longshore.linux.cgroup.manager import Cgroup
from longshore.oci import create, delete, exec as exec_, start, state
from longshore.oci.process import messages

root, bundle, verb, step = sys.argv[1:]
owner, name, turn = {
    "directory": (create.Launch, "_make_directory", 1),
    "some of the cgroup": (os, "mkdir", 4),
    "the cgroup": (Cgroup, "create", 1),
    "limits": (create.Launch, "_make_cgroup", 1),
    "descriptors": (create.Launch, "_prepare", 1),
    "fork": (create.Launch, "_fork", 1),
    "record": (state.State, "save", 1),
    "enrolled": (create.Launch, "_enrol", 1),
    "let go": (messages.Channel, "send", 1),
    "ready": (messages.Channel, "receive", 1),
    "pid file": (create, "write_pid_file", 1),
    "opened": (os, "open", 3),
    "fifo": (os, "unlink", 1),
    "started": (start, "_write_byte", 1),
    "killed": (Cgroup, "kill", 1),
    "its cgroup": (Cgroup, "delete", 1),
    "some of its files": (os, "unlink", 2),
    "all of its files": (delete, "_poststop", 1),
    "exec prepared": (exec_.Exec, "_prepare", 1),
    "exec forked": (exec_.Exec, "_fork", 1),
    "exec let go": (messages.Channel, "send", 1),
    "exec ready": (messages.Channel, "receive", 1),
}[step]
done, ours, turns = getattr(owner, name), os.getpid(), [0]

def deadly(*words, **named):
    result = done(*words, **named)
    if os.getpid() == ours:  # not its child, the container's process
        turns[0] += 1
        if turns[0] == turn:
            os.kill(ours, 9)
    return result

setattr(owner, name, deadly)
{
    "create": lambda: create.create(root, "c", bundle, pid_file=bundle + "/pid"),
    "start": lambda: start.start(root, "c"),
    "delete": lambda: delete.delete(root, "c", force=True),
    "exec": lambda: exec_.execute(root, "c", {"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"]}),
}[verb]()
"""
STEPS = {
    "create": (
        *("directory", "some of the cgroup", "the cgroup", "limits", "descriptors", "fork", "record"),
        *("enrolled", "let go", "ready", "pid file"),
    ),
    "start": ("opened", "fifo", "started"),
    "delete": ("killed", "its cgroup", "some of its files", "all of its files"),
    "exec": ("exec prepared", "exec forked", "exec let go", "exec ready"),
}


def killed(box: Bundle, verb: str, step: str) -> None:
    box.save()
    words = [sys.executable, "-c", VERB, str(box.state), str(box.folder), verb, step]
    with (box.folder / "said").open("w+") as said:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False, timeout=120
        )
    assert done.returncode == -signal.SIGKILL, (box.folder / "said").read_text()


@pytest.mark.parametrize("step", STEPS["create"])
def test_create(box: Bundle, step: str) -> None:
    box.shell(FOREVER)
    killed(box, "create", step)
    box.do("delete", "--force", "c")
    left_nothing(box)
    assert box.run("echo again").stdout == "again\n"


@pytest.mark.parametrize("verb, step", [(verb, step) for verb in ("start", "delete") for step in STEPS[verb]])
def test_start_and_delete(box: Bundle, verb: str, step: str) -> None:
    box.create(FOREVER)
    killed(box, verb, step)
    box.do("delete", "--force", "c")
    left_nothing(box)


@pytest.mark.parametrize("step", STEPS["exec"])
def test_exec(box: Bundle, step: str) -> None:
    """The process never came to its program, and goes; the container is as before."""
    init = box.create(FOREVER)
    box.do("start", "c")
    killed(box, "exec", step)
    processes = box.cgroup("pids") / "cgroup.procs"
    eventually(lambda: not any(executes(int(pid), "python") for pid in processes.read_text().split()))
    assert box.inspect()["status"] == "running" and box.inspect()["pid"] == init
    assert box.do("exec", "c", "echo", "hi") == "hi\n"


def executes(pid: int, name: str) -> bool:
    try:
        return name in os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False


def left_nothing(box: Bundle) -> None:
    assert not list(box.state.iterdir())
    assert not box.cgroup("pids").parent.exists() and not box.cgroup("memory").parent.exists()
    eventually(lambda: not inside(box.folder))


def inside(folder: Path) -> list[str]:
    """Processes whose root lies in a folder."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            place = os.readlink(f"/proc/{pid}/root")
        except OSError:
            continue
        if place.startswith(str(folder)):
            found.append(pid)
    return found
