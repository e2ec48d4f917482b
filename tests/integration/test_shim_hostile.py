"""A shim among enemies: nonsense on its socket, a container that kills it, SIGKILL in the middle of each verb."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.api.ttrpc.request_pb2 import Request
from longshore.api.types.mount_pb2 import Mount
from longshore.api.types.task.task_pb2 import Status
from support import images, leaks, require, soak
from support.shims import Shims, Task, until

METHODS = ("State", "Create", "Start", "Pids", "Exec", "ResizePty", "CloseIO", "Update", "Wait", "Stats", "x")
VERBS = ("create", "start", "exec", "delete")


@pytest.fixture
def shims(short_tmp: Path) -> Iterator[Shims]:
    require.root()
    namespace = f"t{uuid.uuid4().hex[:8]}"
    (short_tmp / "image").mkdir()
    with Shims(short_tmp, namespace, images.busybox_rootfs(short_tmp / "image")) as made:
        yield made
    leaks.Watch([short_tmp], [namespace]).check()


def pid_of(task: Task) -> int:
    pid: int = task.call("Connect", api.ConnectRequest(id=task.id), api.ConnectResponse).shim_pid
    return pid


def frame(data: bytes, *, stream: int = 1, kind: int = 1, flags: int = 0, length: int = -1) -> bytes:
    return struct.pack(">IIBB", len(data) if length < 0 else length, stream, kind, flags) + data


def nonsense(chance: random.Random) -> bytes:
    """Bytes that no client of ours sends."""
    request = Request(
        service="containerd.task.v3.Task",
        method=chance.choice(METHODS),
        payload=chance.randbytes(chance.randrange(60)),
        timeout_nano=chance.choice([0, -1, 1, 2**63 - 1]),
    ).SerializeToString()
    return chance.choice(
        [
            chance.randbytes(chance.choice([1, 9, 10, 11, 5000])),
            frame(b"", length=chance.choice([2**32 - 1, 5 << 20, 4 << 20]), kind=chance.randrange(5)),
            frame(chance.randbytes(50), stream=chance.randrange(2**32), kind=chance.randrange(256)),
            frame(request, flags=chance.randrange(256)),
            frame(request)[: chance.randrange(1, 40)],
            b"".join(frame(request, stream=stream) for stream in (1, 3, 3, 2, 5)),
        ]
    )


def test_nonsense_on_the_socket(shims: Shims) -> None:
    task = shims.start("c1")
    task.create()
    task.start()
    shim, chance = pid_of(task), random.Random(7)
    before = len(os.listdir(f"/proc/{shim}/fd"))
    for _ in range(soak.times(100, 5000)):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(task.address.removeprefix("unix://"))
            with suppress(OSError):
                client.sendall(nonsense(chance))
    assert task.state().status == Status.RUNNING and pid_of(task) == shim
    until(lambda: len(os.listdir(f"/proc/{shim}/fd")) <= before)


def test_a_container_that_kills_its_parent(shims: Shims) -> None:
    """It can where it sees the host's processes; what it leaves is removed as after any shim's death."""
    task = shims.start("c1")
    namespaces = task.spec["linux"]["namespaces"]
    task.spec["linux"]["namespaces"] = [entry for entry in namespaces if entry["type"] != "pid"]
    task.spec["process"]["args"] = ["/bin/sh", "-c", "kill -9 $PPID; sleep 1000"]
    shim = pid_of(task)
    task.create()
    with suppress(Exception):
        task.start()
    until(lambda: not os.path.exists(f"/proc/{shim}"))
    removed(shims, task)


@pytest.mark.parametrize("verb", VERBS)
def test_killed_in_the_middle(shims: Shims, verb: str) -> None:
    """At whatever moment; the executable's `delete` removes what there was by then."""
    chance = random.Random(verb)
    for turn in range(soak.times(2, 50)):
        task = shims.start(f"c{turn}")
        task.spec["root"] = {"path": "rootfs"}
        rootfs = [Mount(type="bind", source=str(shims.rootfs), options=["rbind", "rw"])]
        shim = pid_of(task)
        if verb != "create":
            task.create(rootfs=rootfs)
        if verb in ("exec", "delete"):
            task.start()
        if verb == "exec":
            task.exec("e1", ["sleep", "1000"])
        if verb == "delete":
            task.kill(9)
            task.wait()
        calling = threading.Thread(target=carry_out, args=[task, verb, rootfs])
        calling.start()
        time.sleep(chance.random() * 0.03)
        with suppress(ProcessLookupError):
            os.kill(shim, signal.SIGKILL)
        calling.join()
        removed(shims, task)


def carry_out(task: Task, verb: str, rootfs: list[Mount]) -> None:
    """Whatever comes of it."""
    with suppress(Exception):
        if verb == "create":
            task.create(rootfs=rootfs)
        elif verb == "delete":
            task.delete()
        else:
            task.start("e1" if verb == "exec" else "")


def removed(shims: Shims, task: Task) -> None:
    answer = api.DeleteResponse.FromString(shims.run(task, "delete", "-bundle", str(task.bundle)).stdout)
    assert answer.exit_status == 137
    assert str(task.bundle) not in Path("/proc/self/mountinfo").read_text()
    task.address = ""  # there is nobody to ask any more
