"""What clients are told when they ask for what can't be done: the same words from containerd and from us.

Each deed is done on Debian's containerd and on our daemon, there with the Go
shim and with ours on runc; codes and words must be equal. Left out is
DeleteProcess without an exec id: containerd passes it on, and the shim deletes
the container's own process; we refuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.api.services.tasks.v1 import tasks_pb2 as tasks
from longshore.api.types.runc.options.oci_pb2 import Options
from support import goparts, images
from support.daemon import Longshore
from support.folders import short_folder
from support.realdaemon import RealContainerd
from support.tasks import Api

SLEEP = ("/bin/sleep", "1000")
Deed = Callable[[Api], Any]


def ask(method: str, **fields: Any) -> Deed:
    """The rpc `method` for container c1."""
    requests = {
        "Pause": tasks.PauseTaskRequest,
        "Resume": tasks.ResumeTaskRequest,
        "Update": tasks.UpdateTaskRequest,
        "ResizePty": tasks.ResizePtyRequest,
        "CloseIO": tasks.CloseIORequest,
        "Exec": tasks.ExecProcessRequest,
        "Checkpoint": tasks.CheckpointTaskRequest,
        "ListPids": tasks.ListPidsRequest,
    }
    request = requests[method](container_id="c1", **fields)
    return lambda api: api._call(getattr(api.tasks, method), request)


# Each stage leads to the next: no task, created, running, ended.
NO_TASK: dict[str, Deed] = {
    "get without container": lambda api: api.get("none"),
    "create without container": lambda api: api.create("none"),
    "get": lambda api: api.get("c1"),
    "start": lambda api: api.start("c1"),
    "kill": lambda api: api.kill("c1"),
    "wait": lambda api: api.wait("c1"),
    "delete": lambda api: api.delete("c1"),
    "delete exec": lambda api: api.delete_exec("c1", "e1"),
    "exec": ask("Exec", exec_id="e1"),
    "exec without id": ask("Exec"),
    "pause": ask("Pause"),
    "pids": ask("ListPids"),
    "checkpoint": ask("Checkpoint"),
    "resize": ask("ResizePty"),
    "close": ask("CloseIO"),
    "update": ask("Update"),
}
CREATED: dict[str, Deed] = {
    "create again": lambda api: api.create("c1"),
    "pause": ask("Pause"),
    "resume": ask("Resume"),
    "exec": lambda api: api.exec("c1", "e0", "/bin/true"),
    "wait for exec": lambda api: api.wait("c1", "e0"),
}
RUNNING: dict[str, Deed] = {
    "start again": lambda api: api.start("c1"),
    "delete": lambda api: api.delete("c1"),
    "resume": ask("Resume"),
    "exec, bad id": lambda api: api.exec("c1", "-bad", "true"),
    "exec, no id": ask("Exec"),
    "get unknown exec": lambda api: api.get("c1", "nope"),
    "start unknown exec": lambda api: api.start("c1", "nope"),
    "wait for unknown exec": lambda api: api.wait("c1", "nope"),
    "kill unknown exec": lambda api: api.kill("c1", 9, "nope"),
    "delete unknown exec": lambda api: api.delete_exec("c1", "nope"),
    "close unknown exec": ask("CloseIO", exec_id="nope", stdin=True),
    "resize unknown exec": ask("ResizePty", exec_id="nope"),
    "resize without terminal": ask("ResizePty", width=1, height=1),
    "exec a missing program": lambda api: api.exec("c1", "e1", "/no/such"),
    "wait for what never started": lambda api: api.wait("c1", "e1"),
    "exec, id taken": lambda api: api.exec("c1", "e1", "true"),
}
ENDED: dict[str, Deed] = {
    "kill": lambda api: api.kill("c1"),
    "start": lambda api: api.start("c1"),
    "pause": ask("Pause"),
    "exec": lambda api: api.exec("c1", "e2", "true"),
    "resize without terminal": ask("ResizePty", width=1, height=1),
}
# These have containers of their own.
BAD_RUNTIME = {"unknown": "io.containerd.nope.v1", "relative": "a/b", "absent": "/no/such/shim"}


def outcome(deed: Deed, api: Api) -> tuple[str, str]:
    try:
        deed(api)
    except grpc.RpcError as error:
        return error.code().name, (error.details() or "").replace(api.namespace, "NS")
    return "OK", ""


def session(api: Api, folder: Path, runtime: dict[str, Any]) -> dict[str, tuple[str, str]]:
    rootfs = images.busybox_rootfs(folder)
    api.container("c1", rootfs, *SLEEP, **runtime)
    found = {}

    def stage(name: str, deeds: dict[str, Deed]) -> None:
        found.update({f"{name}: {what}": outcome(deed, api) for what, deed in deeds.items()})

    stage("no task", NO_TASK)
    api.create("c1")
    stage("created", CREATED)
    api.start("c1")
    stage("running", RUNNING)
    waiting = api.waiting("c1")
    api.kill("c1")
    waiting.result()
    stage("ended", ENDED)
    api.delete("c1")
    api.remove_container("c1")
    for what, name in BAD_RUNTIME.items():
        api.container("c2", rootfs, *SLEEP, runtime=name)
        found[f"runtime: {what}"] = outcome(lambda api: api.create("c2"), api)
        api.remove_container("c2")
    api.container("c2", "/no/such/rootfs", *SLEEP, **runtime)
    found["rootfs: absent"] = outcome(lambda api: api.create("c2"), api)
    found["rootfs: absent, then"] = outcome(lambda api: api.get("c2"), api)
    api.remove_container("c2")
    return found


@pytest.fixture(scope="module")
def original() -> Iterator[dict[str, tuple[str, str]]]:
    with short_folder() as folder, RealContainerd() as real, Api(real.address, real.namespace) as api:
        yield session(api, folder, {})


@pytest.mark.parametrize("shim", ["Go's shim", "our shim with runc"])
def test_same_words(shim: str, original: dict[str, tuple[str, str]]) -> None:
    program, runc = str(goparts.path("containerd-shim-runc-v2")), str(goparts.path("runc"))
    runtime = {"runtime": program} if shim == "Go's shim" else {"options": Options(binary_name=runc)}
    started = Longshore(go_runtimes=True)
    with short_folder() as folder, started as daemon, Api(daemon.address, daemon.namespace) as api:
        assert session(api, folder, runtime) == original
