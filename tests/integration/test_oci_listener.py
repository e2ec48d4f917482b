"""seccomp notifications: a program outside answers system calls of the container."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.bundles import Bundle

RECEIVE, SEND = 0xC0502100, 0xC0182101


class Agent(threading.Thread):
    """Takes listeners and answers the first notification of each with an error number."""

    def __init__(self, path: Path, error: int) -> None:
        super().__init__()
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(path))
        self.server.listen()
        self.error = error
        self.states: list[dict[str, Any]] = []

    def run(self) -> None:
        while True:
            connection, _ = self.server.accept()
            with connection:
                data, fds, _, _ = socket.recv_fds(connection, 65536, 4)
            if not data:
                return
            self.states.append(json.loads(data))
            self._serve(fds[0])

    def _serve(self, listener: int) -> None:
        try:
            notification = bytearray(80)
            fcntl.ioctl(listener, RECEIVE, notification)
            fcntl.ioctl(listener, SEND, bytes(notification[:8]) + struct.pack("<qiI", 0, -self.error, 0))
        finally:
            os.close(listener)


@contextmanager
def agent(path: Path, error: int) -> Iterator[Agent]:
    made = Agent(path, error)
    made.start()
    try:
        yield made
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.connect(str(path))
        made.join(60)
        made.server.close()
        assert not made.is_alive()


def notify(box: Bundle, *names: str) -> None:
    box.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(box.folder / "agent"),
        "listenerMetadata": "mine",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
    }


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_program_outside_answers(box: Bundle, no_new_privileges: bool) -> None:
    notify(box, "mkdir", "mkdirat")
    box.config["annotations"] = {"a": "b"}
    box.config["process"]["noNewPrivileges"] = no_new_privileges
    with agent(box.folder / "agent", 28) as listening:
        done = box.run("mkdir /made; ls -l /proc/self/fd | wc -l")
        assert "No space left" in done.stderr
        assert not (box.root / "made").exists()
    (state,) = listening.states
    assert (state["fds"], state["metadata"]) == (["seccompFd"], "mine")
    assert (state["state"]["id"], state["state"]["annotations"]) == ("c", {"a": "b"})
    assert state["pid"] == state["state"]["pid"] > 1
    # total, 0, 1, 2 and ls' own: neither listener nor connection got through execve.
    assert done.stdout.split() == ["5"]


def test_exec_without_its_agent_is_an_error(box: Bundle) -> None:
    notify(box, "mkdir", "mkdirat")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(box.folder / "agent"))
        server.listen()
        box.create("while :; do sleep 1000; done")
        box.do("start", "c")
    done = box.call("exec", "c", "true")
    assert done.returncode == 255
    assert "failed to connect with seccomp agent" in done.stderr


def test_exec_is_answered(box: Bundle) -> None:
    notify(box, "mkdir", "mkdirat")
    with agent(box.folder / "agent", 17) as listening:
        box.create("mkdir /once; while :; do sleep 1000; done")
        box.do("start", "c")
        done = box.call("exec", "c", "mkdir", "/made")
        assert "File exists" in done.stderr
    first, second = listening.states
    assert second["state"]["pid"] == first["pid"] != second["pid"]
    assert second["state"]["status"] == "running"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY cannot be used as default action"),
        ({"listenerPath": ""}, "listenerPath is not set"),
        ({}, "failed to connect with seccomp agent specified in the seccomp profile: dial unix"),
        (
            {"syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]},
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (
            {"syscalls": [{"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}]},
            "SCMP_ACT_NOTIFY cannot be used for the sendmsg syscall",
        ),
    ],
)
def test_profiles_that_nobody_could_listen_to(box: Bundle, change: dict[str, Any], message: str) -> None:
    notify(box, "mkdir")
    box.config["linux"]["seccomp"] |= change
    done = box.run("true")
    assert done.returncode == 1
    assert message in done.stderr
