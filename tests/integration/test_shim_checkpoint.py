"""Checkpoint, and Create from a checkpoint, with the stand-in for criu; in process and by command line."""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.api import typeurls
from longshore.api.errors import Error
from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.api.types.runc.options.oci_pb2 import CheckpointOptions
from longshore.api.types.task.task_pb2 import Status
from support import criu, images
from support.leaks import Watch
from support.shims import Shims, reader, until


@pytest.fixture(params=["library", "command"])
def shims(
    request: pytest.FixtureRequest,
    short_tmp: Path,
    our_runc: list[str | Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shims]:
    criu.install(short_tmp)
    monkeypatch.setenv("PATH", f"{short_tmp}:/usr/bin:/bin")
    runtime = ""
    if request.param == "command":
        program = short_tmp / "runc"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, our_runc))} "$@"\n')
        program.chmod(0o755)
        runtime = str(program)
    (short_tmp / "root").mkdir()
    namespace = f"t{uuid.uuid4().hex[:8]}"
    with Shims(short_tmp, namespace, images.busybox_rootfs(short_tmp / "root"), runtime) as started:
        yield started
    watch = Watch([short_tmp], [namespace])
    watch.remove_cgroups()
    watch.check()


def test_out_and_in_again(shims: Shims) -> None:
    task = shims.start("c")
    stored = str(shims.folder / "images")
    task.create()
    task.start()
    options = CheckpointOptions(
        exit=True, open_tcp=True, file_locks=True, cgroups_mode="strict", empty_namespaces=["network"]
    )
    task.call("Checkpoint", api.CheckpointTaskRequest(id="c", path=stored, options=typeurls.pack(options)))
    said = criu.calls(shims.folder)[-1]["words"]
    assert {"--tcp-established", "--file-locks", "--manage-cgroups=strict", "--empty-ns"} <= set(said)
    assert "--leave-running" not in said
    assert task.wait() == 137
    assert shims.events.wait("/tasks/checkpointed").checkpoint == stored
    task.delete()
    # The image was made with streams to nowhere; this one prints.
    Path(stored, "descriptors.json").write_text('["/dev/null", "pipe:[4711]", "/dev/null"]')
    output = task.fifo("out")
    with reader(output) as fd:
        assert task.create(checkpoint=stored, stdout=str(output)) == 0
        assert task.state().status == Status.CREATED
        with pytest.raises(Error, match="process not created"):
            task.kill(9)
        pid = task.start()
        assert (task.state().status, task.state().pid) == (Status.RUNNING, pid)
        assert os.read(fd, 100) == b"restored\n"
        task.kill(9)
        assert task.wait() == 137
    task.delete()
    life = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    expected = [*life[:2], "/tasks/checkpointed", *life[2:], *life]
    until(lambda: sorted(shims.events.topics("c")) == sorted(expected))
    assert [topic for topic in shims.events.topics("c") if topic != "/tasks/checkpointed"] == life * 2


def test_left_running_and_failing(shims: Shims) -> None:
    task = shims.start("c")
    task.create()
    with pytest.raises(Error, match="cannot checkpoint a task in created state"):
        task.call("Checkpoint", api.CheckpointTaskRequest(id="c", path="/nowhere"))
    task.start()
    stored = str(shims.folder / "images")
    task.call("Checkpoint", api.CheckpointTaskRequest(id="c", path=stored))
    assert "--leave-running" in criu.calls(shims.folder)[-1]["words"]
    assert task.state().status == Status.RUNNING
    (shims.folder / "fail").touch()
    with pytest.raises(Error, match=r"criu failed: exit status 1: .* as told by the test"):
        task.call("Checkpoint", api.CheckpointTaskRequest(id="c", path=stored))
    task.kill(9)
    assert task.wait() == 137
    task.delete()
    task.create(checkpoint=stored)
    with pytest.raises(Error, match="OCI runtime restore failed: criu failed"):
        task.start()
    task.delete()
