"""Tasks through a whole daemon: their lives, and that no exit is lost or told twice whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from longshore.api.services.tasks.v1 import tasks_pb2
from longshore.api.types.runc.options.oci_pb2 import Options
from longshore.api.types.task.task_pb2 import CREATED, RUNNING, STOPPED
from support import images, require, soak
from support.daemon import LONGSHORE, Longshore
from support.folders import short_folder
from support.process import eventually
from support.tasks import Api, TaskEvents

SLEEP = ("/bin/sleep", "1000")


@pytest.fixture(scope="module")
def rootfs() -> Iterator[Path]:
    require.go("busybox")
    with short_folder() as folder:
        yield images.busybox_rootfs(folder)


@pytest.fixture(params=["built-in", "built-in with runc", "Go's shim"])
def runtime(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Keywords for `Api.container`."""
    if request.param == "built-in":
        return {}
    shim, runc = map(str, require.go("containerd-shim-runc-v2", "runc"))
    if request.param == "Go's shim":
        return {"runtime": shim}
    return {"options": Options(binary_name=runc)}


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Longshore]:
    """Go's runc leaves the parents of its cgroups, ours does not."""
    foreign = "runtime" in request.fixturenames and bool(request.getfixturevalue("runtime"))
    with Longshore(go_runtimes=foreign) as daemon:
        yield daemon


@pytest.fixture
def api(daemon: Longshore) -> Iterator[Api]:
    with Api(daemon.address, daemon.namespace) as api:
        yield api


def code_and_words(raised: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, str]:
    return raised.value.code(), raised.value.details() or ""


def bundle(daemon: Longshore, id: str) -> Path:
    return Path(daemon.state) / "io.containerd.runtime.v2.task" / daemon.namespace / id


def shim_pid(daemon: Longshore, pid: int) -> int:
    """The parent of a container's init, found before anything dies."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def test_life(daemon: Longshore, api: Api, runtime: dict[str, Any], rootfs: Path) -> None:
    with TaskEvents(api) as events:
        api.container("c1", rootfs, "/bin/sh", "-c", "exit 7", **runtime)
        pid = api.create("c1")
        assert (api.get("c1").status, api.get("c1").pid) == (CREATED, pid)
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
        waiting = [api.waiting("c1"), api.waiting("c1")]
        assert api.start("c1") == pid
        assert [each.result().exit_status for each in waiting] == [7, 7]
        assert api.wait("c1") == 7
        assert (api.get("c1").status, api.get("c1").exit_status) == (STOPPED, 7)
        assert api.delete("c1") == 7
        with pytest.raises(grpc.RpcError) as raised:
            api.delete("c1")
        assert code_and_words(raised) == (grpc.StatusCode.NOT_FOUND, "task c1 not found")
        events.until("c1", "delete")
        assert list(events.topics("c1")) == ["create", "start", "exit", "delete"]
        ended = events.of("c1", "exit")[0]
        assert (ended.id, ended.pid, ended.exit_status) == ("c1", pid, 7)
    assert not bundle(daemon, "c1").exists()
    api.remove_container("c1")


def test_exec_lives_its_own_life(api: Api, runtime: dict[str, Any], rootfs: Path) -> None:
    with TaskEvents(api) as events:
        api.run("c1", rootfs, *SLEEP, **runtime)
        pid = api.exec("c1", "e1", "/bin/sh", "-c", "exit 5")
        assert api.wait("c1", "e1") == 5
        assert (api.get("c1", "e1").status, api.get("c1", "e1").id) == (STOPPED, "e1")
        assert api.delete_exec("c1", "e1") == 5
        with pytest.raises(grpc.RpcError) as raised:
            api.get("c1", "e1")
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        assert [(each.id, each.pid) for each in events.until("c1", "exit")] == [("e1", pid)]
        api.end("c1")


def test_names_are_taken_once(api: Api, runtime: dict[str, Any], rootfs: Path) -> None:
    api.run("c1", rootfs, *SLEEP, **runtime)
    with pytest.raises(grpc.RpcError) as raised:
        api.create("c1")
    assert code_and_words(raised) == (grpc.StatusCode.ALREADY_EXISTS, "task c1: already exists")
    with pytest.raises(grpc.RpcError):
        api.delete("c1")  # it runs
    assert api.get("c1").status == RUNNING
    api.end("c1")
    api.run("c1", rootfs, *SLEEP, **runtime)
    api.end("c1")


def test_same_name_again_and_again(api: Api, runtime: dict[str, Any], rootfs: Path) -> None:
    """The next shim listens where the last one did, which may not have ended yet."""
    api.container("c1", rootfs, "/bin/true", **runtime)
    for _ in range(15):
        api.create("c1")
        waiting = api.waiting("c1")
        api.start("c1")
        assert waiting.result().exit_status == 0
        assert api.delete("c1") == 0
    api.remove_container("c1")


def test_failed_create_leaves_nothing(
    daemon: Longshore, api: Api, runtime: dict[str, Any], rootfs: Path
) -> None:
    api.container("c1", rootfs, "/no/such/program", **runtime)
    with pytest.raises(grpc.RpcError) as raised:
        api.create("c1")
        api.start("c1")
    assert "no such" in (raised.value.details() or "").lower()
    try:
        api.delete("c1")  # runc finds out at Create, crun at Start
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
    assert not bundle(daemon, "c1").exists()
    assert api.list() == []


def test_killed_shim(daemon: Longshore, api: Api, runtime: dict[str, Any], rootfs: Path) -> None:
    with TaskEvents(api) as events:
        init = api.run("c1", rootfs, *SLEEP, **runtime)
        running = api.exec("c1", "e1", *SLEEP)
        ended = api.exec("c1", "e2", "/bin/true")
        events.until("c1", "exit")
        waiting = api.waiting("c1")
        os.kill(shim_pid(daemon, init), signal.SIGKILL)
        events.until("c1", "delete")
        assert waiting.result().exit_status == 137
        exits = [(each.id, each.pid, each.exit_status) for each in events.of("c1", "exit")]
        assert exits == [("e2", ended, 0), ("e1", running, 137), ("c1", init, 137)]
        assert len(events.of("c1", "delete")) == 1
    eventually(lambda: not bundle(daemon, "c1").exists())
    eventually(lambda: not Path(f"/proc/{init}").exists() and not Path(f"/proc/{running}").exists())
    with pytest.raises(grpc.RpcError) as raised:
        api.get("c1")
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    api.remove_container("c1")


def test_killed_daemon(daemon: Longshore, api: Api, runtime: dict[str, Any], rootfs: Path) -> None:
    """Containers run on; exits of the gap, execs' too, are told exactly once to whoever follows or replays."""
    follower = TaskEvents(api)
    pids = {id: api.run(id, rootfs, *SLEEP, **runtime) for id in ("stays", "ends", "execs")}
    exec_pid = api.exec("execs", "e1", *SLEEP)
    ready = follower.until("execs", "exec-started")
    assert ready
    daemon.kill9()
    follower.close()
    os.kill(pids["ends"], signal.SIGKILL)
    os.kill(exec_pid, signal.SIGKILL)
    eventually(lambda: not _runs(pids["ends"]) and not _runs(exec_pid))
    daemon.start()
    with (
        Api(daemon.address, daemon.namespace) as again,
        TaskEvents(again) as resumed,
        TaskEvents(again, since=0) as replayed,
    ):
        assert {each.id: (each.pid, each.status) for each in again.list()} == {
            "stays": (pids["stays"], RUNNING),
            "ends": (pids["ends"], STOPPED),
            "execs": (pids["execs"], RUNNING),
        }
        assert again.wait("ends") == 137
        assert again.wait("execs", "e1") == 137
        again.exec("stays", "later", "/bin/true")
        assert again.wait("stays", "later") == 0
        for events in (resumed, replayed):
            events.until("stays", "exit")
            assert [(each.id, each.exit_status) for each in events.until("ends", "exit")] == [("ends", 137)]
            assert [(each.id, each.exit_status) for each in events.until("execs", "exit")] == [("e1", 137)]
        assert again.delete("ends") == 137
        again.remove_container("ends")
        for id in ("stays", "execs"):
            again.end(id)
        for events in (resumed, replayed):
            events.until("stays", "delete")
            events.until("execs", "delete")
            assert len(events.of("ends", "exit")) == 1
            assert len(events.of("execs", "exit")) == 2


def test_shim_killed_while_the_daemon_was_away(
    daemon: Longshore, api: Api, runtime: dict[str, Any], rootfs: Path
) -> None:
    init = api.run("c1", rootfs, *SLEEP, **runtime)
    running = api.exec("c1", "e1", *SLEEP)
    shim = shim_pid(daemon, init)
    daemon.kill9()
    os.kill(shim, signal.SIGKILL)
    daemon.start()
    with Api(daemon.address, daemon.namespace) as again:
        with TaskEvents(again, since=0) as events:
            events.until("c1", "delete")
            exits = [(each.id, each.pid, each.exit_status) for each in events.of("c1", "exit")]
            assert exits == [("e1", running, 137), ("c1", init, 137)]
            assert len(events.of("c1", "delete")) == 1
        eventually(lambda: not bundle(daemon, "c1").exists())
        assert again.list() == []
        again.remove_container("c1")


@pytest.mark.parametrize("damage", ["lost", "nonsense"])
def test_a_shim_is_found_without_its_files(daemon: Longshore, api: Api, rootfs: Path, damage: str) -> None:
    """A container of ours outlives the word on where its shim listens, and which program that is."""
    init = api.run("c1", rootfs, *SLEEP)
    daemon.kill9()
    for name in ("bootstrap.json", "shim-binary-path"):
        if damage == "lost":
            (bundle(daemon, "c1") / name).unlink()
        else:
            (bundle(daemon, "c1") / name).write_bytes(b"\xff\0nonsense")
    daemon.start()
    with Api(daemon.address, daemon.namespace) as again:
        assert [(each.id, each.pid, each.status) for each in again.list()] == [("c1", init, RUNNING)]
        again.exec("c1", "e1", "/bin/true")
        assert again.wait("c1", "e1") == 0
        again.end("c1")


def test_ended_tasks_at_the_next_start(daemon: Longshore, api: Api, rootfs: Path) -> None:
    """One whose container is still known waits for its client; the other nobody could ever delete."""
    for id in ("kept", "lost"):
        api.run(id, rootfs, "/bin/sh", "-c", "exit 7")
        assert api.wait(id) == 7
    api.remove_container("lost")
    daemon.kill9()
    daemon.start()
    with Api(daemon.address, daemon.namespace) as again, TaskEvents(again, since=0) as events:
        assert [(each.id, each.status, each.exit_status) for each in again.list()] == [("kept", STOPPED, 7)]
        events.until("lost", "delete")
        assert [each.exit_status for each in events.of("lost", "exit")] == [7]
        assert [each.exit_status for each in events.of("lost", "delete")] == [7]
        eventually(lambda: not bundle(daemon, "lost").exists())
        assert again.delete("kept") == 7
        again.remove_container("kept")


def test_no_word_of_an_empty_place_for_shims(daemon: Longshore, api: Api, rootfs: Path) -> None:
    api.run("c1", rootfs, *SLEEP)
    place = daemon.state / "s"
    daemon.stop()
    assert place.exists()  # one listens there
    daemon.start()
    with Api(daemon.address, daemon.namespace) as again:
        again.end("c1")
    eventually(lambda: os.listdir(place) == [])
    daemon.stop()
    assert not place.exists()
    daemon.start()


def test_a_full_disk_for_the_state(rootfs: Path, short_tmp: Path) -> None:
    """What runs, runs on, and its end is known, also to the next daemon; what is new says why not."""
    disk = short_tmp / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        with Longshore(arguments=["--state", str(disk / "run")]) as daemon:
            with Api(daemon.address, daemon.namespace) as api:
                api.run("c1", rootfs, *SLEEP)
                _fill(disk / "junk")
                api.container("c2", rootfs, *SLEEP)
                with pytest.raises(grpc.RpcError) as raised:
                    api.create("c2")
                code, words = code_and_words(raised)
                assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "no space left on device" in words
                waiting = api.waiting("c1")
                api.kill("c1")
                assert waiting.result().exit_status == 137
            daemon.kill9()
            daemon.start()
            with Api(daemon.address, daemon.namespace) as again:
                assert [(each.id, each.exit_status) for each in again.list()] == [("c1", 137)]
                assert again.delete("c1") == 137
                (disk / "junk").unlink()
                again.create("c2")
                again.start("c2")
                again.end("c2")
                again.remove_container("c1")
    finally:
        subprocess.run(["umount", disk], check=True)


def _fill(path: Path) -> None:
    """Take all the room there is."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 512, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


def test_many_tasks_whatever_the_limit_of_open_files(rootfs: Path) -> None:
    """The daemon raises its own; shims, of a zygote that came later too, and containers have what it was given."""
    shim = LONGSHORE.with_name("containerd-shim-longshore-v1")
    program = ("prlimit", "--nofile=64:4096", LONGSHORE)
    with Longshore(program=program, go_runtimes=True) as daemon, Api(daemon.address, daemon.namespace) as api:
        assert _open_files(daemon.pid) == ("4096", "4096")
        pids = [api.run("c1", rootfs, *SLEEP)]
        (zygote,) = [pid for pid in _children(daemon.pid) if _open_files(pid)[0] == "64"]
        os.kill(zygote, signal.SIGKILL)
        pids += [api.run("c2", rootfs, *SLEEP), api.run("c3", rootfs, *SLEEP, runtime=str(shim))]
        assert [_open_files(pid) for pid in pids] == [("64", "4096")] * 3
        for id in ("c1", "c2", "c3"):
            api.end(id)


def _open_files(pid: int) -> tuple[str, str]:
    """Soft and hard limit."""
    line = Path(f"/proc/{pid}/limits").read_text().partition("Max open files")[2].split()
    return line[0], line[1]


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_cancelled_calls_leave_whole_things(
    daemon: Longshore, api: Api, runtime: dict[str, Any], rootfs: Path
) -> None:
    """A client that gives up at any moment: the task is there, or nothing of it is."""
    random = Random(6)
    for _ in range(soak.times(12, 1000)):
        api.container("c1", rootfs, *SLEEP, **runtime)
        _cancel(random, api.tasks.Create, tasks_pb2.CreateTaskRequest(container_id="c1"), api)
        with suppress_code(grpc.StatusCode.ALREADY_EXISTS):  # the cancelled one was carried out
            api.create("c1")
        eventually(lambda: api.list())  # it may still be under way
        _cancel(random, api.tasks.Start, tasks_pb2.StartRequest(container_id="c1"), api)
        _start_if_it_was_not(api)
        assert api.get("c1").status == RUNNING
        waiting = api.waiting("c1")
        _cancel(random, api.tasks.Kill, tasks_pb2.KillRequest(container_id="c1", signal=9), api)
        with suppress_code(grpc.StatusCode.NOT_FOUND):
            api.kill("c1")
        assert waiting.result().exit_status == 137
        _cancel(random, api.tasks.Delete, tasks_pb2.DeleteTaskRequest(container_id="c1"), api)
        with suppress_code(grpc.StatusCode.NOT_FOUND):
            api.delete("c1")
        eventually(lambda: not bundle(daemon, "c1").exists())
        api.remove_container("c1")


def _cancel(random: Random, method: Any, request: Any, api: Api) -> None:
    call = method.future(request, metadata=api.metadata, timeout=60)
    threading.Event().wait(random.uniform(0, 0.05))
    call.cancel()


def _start_if_it_was_not(api: Api) -> None:
    try:
        api.start("c1")
    except grpc.RpcError as error:
        assert "cannot start a running process" in (error.details() or "")


@contextmanager
def suppress_code(code: grpc.StatusCode) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        if error.code() != code:
            raise


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
