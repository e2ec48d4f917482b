"""The options of a Create request (containerd.runc.v1.Options), each seen to do what it says, or refused."""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.api.errors import Error
from longshore.api.runtime.task.v3 import shim_pb2 as api
from support import criu, images, leaks, require
from support.shims import Shims, Task, read_all, reader, until


@pytest.fixture(params=["library", "command"])
def shims(
    request: pytest.FixtureRequest,
    short_tmp: Path,
    our_runc: list[str | Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shims]:
    """A shim with our runtime in process, and by its command line."""
    require.root()
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
    watch = leaks.Watch([short_tmp], [namespace])
    watch.remove_cgroups()
    watch.check()


def output(task: Task, script: str) -> str:
    """What a container prints with these options."""
    stdout = task.fifo("stdout")
    task.spec["process"]["args"] = ["/bin/sh", "-c", script]
    with reader(stdout) as out:
        task.create(stdout=str(stdout))
        task.start()
        assert task.wait() == 0
        task.delete()
        return read_all(out).decode()


def test_owner_of_the_streams(shims: Shims) -> None:
    task = shims.start("c1")
    task.options.io_uid, task.options.io_gid = 1234, 4321
    # The container's first process takes its streams over, as under runc: of its user they are the runtime's to give.
    task.spec["process"]["user"] = {"uid": 1234, "gid": 4321}
    assert output(task, "stat -L -c '%u %g' /proc/self/fd/1") == "1234 4321\n"


def test_session_keyring(shims: Shims) -> None:
    seen = []
    for wanted in (False, True):
        task = shims.start(f"c{uuid.uuid4().hex}")  # other containers' keyrings are seen, too
        task.options.no_new_keyring = wanted
        seen.append(f"_ses.{task.id}" in output(task, "cat /proc/keys"))
    assert seen == [True, False]


def test_without_pivot(shims: Shims) -> None:
    task = shims.start("c1")
    task.options.no_pivot_root = True
    assert "busybox" in output(task, "ls /bin")


def test_cgroup_of_the_shim(shims: Shims) -> None:
    place = Path(f"/sys/fs/cgroup/pids/{shims.namespace}/shims")
    task = shims.start("c1")
    task.options.shim_cgroup = f"/{shims.namespace}/shims"
    with pytest.raises(Error, match="does not exist"):
        task.create()
    place.mkdir(parents=True)
    task.create()
    shim = task.call("Connect", api.ConnectRequest(id="c1"), api.ConnectResponse).shim_pid
    assert str(shim) in (place / "cgroup.procs").read_text().split()
    assert f"pids:/{shims.namespace}/c1\n" in Path(f"/proc/{task.state().pid}/cgroup").read_text()
    task.clean()
    until(lambda: (place / "cgroup.procs").read_text() == "")


def test_systemd_is_not_asked(shims: Shims) -> None:
    task = shims.start("c1")
    task.options.systemd_cgroup = True
    with pytest.raises(Error, match="systemd cgroup driver is not supported by longshore"):
        task.create()
    assert not os.path.exists(shims.folder / "runtime" / shims.namespace / "c1")


def test_folders_of_criu(shims: Shims) -> None:
    """criu_image_path makes a Create a restore, criu_work_path is where criu's log then goes."""
    task = shims.start("c1")
    stored, work = shims.folder / "images", shims.folder / "work"
    task.create()
    task.start()
    task.call("Checkpoint", api.CheckpointTaskRequest(id="c1", path=str(stored)))
    task.kill(9)
    task.wait()
    task.delete()
    task.options.criu_image_path, task.options.criu_work_path = str(stored), str(work)
    assert task.create() == 0
    task.start()
    said = criu.calls(shims.folder)[-1]["words"]
    assert said[said.index("--work-dir") + 1] == str(work) and said[said.index("--images-dir") + 1] == str(
        stored
    )
