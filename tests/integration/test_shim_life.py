"""A shim through a container's life: states, events in their order, streams, terminals, execs, signals."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import struct
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.api.cgroups.v1.metrics_pb2 import Metrics
from longshore.api.errors import (
    AlreadyExists,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.api.types.runc.options.oci_pb2 import ProcessDetails
from longshore.api.types.task.task_pb2 import Status
from longshore.ttrpc import frames
from longshore.ttrpc.client import Calls, Client, Result
from support import images, leaks, require
from support.shims import Shims, Task, read_all, reader, until

RUNTIMES = ["runc"]
if importlib.util.find_spec("longshore.oci.create") is not None:
    RUNTIMES.insert(0, "")


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require.root()
    return images.busybox_rootfs(tmp_path_factory.mktemp("shim-rootfs"))


@pytest.fixture(params=RUNTIMES, ids=lambda name: name or "library")
def shims(request: pytest.FixtureRequest, short_tmp: Path, rootfs: Path) -> Iterator[Shims]:
    runtime = str(require.go("runc")[0]) if request.param else ""
    namespace = f"t{uuid.uuid4().hex[:8]}"
    watch = leaks.Watch([short_tmp], [namespace])
    with Shims(short_tmp, namespace, rootfs, runtime) as made:
        yield made
    if runtime:
        watch.remove_cgroups()  # runc leaves the parents that it made
    watch.check()


@pytest.fixture
def task(shims: Shims) -> Task:
    return shims.start("c1")


def sh(task: Task, script: str) -> None:
    task.spec["process"]["args"] = ["/bin/sh", "-c", script]


def test_life_and_order_of_events(shims: Shims, task: Task) -> None:
    sh(task, "exit 7")
    pid = task.create()
    created = task.state()
    assert (created.status, created.pid, created.bundle) == (Status.CREATED, pid, str(task.bundle))
    assert created.exited_at.seconds == -62135596800
    assert task.start() == pid
    assert task.wait() == 7
    stopped = task.state()
    assert (stopped.status, stopped.exit_status) == (Status.STOPPED, 7)
    deleted = task.delete()
    assert (deleted.pid, deleted.exit_status) == (pid, 7)
    assert deleted.exited_at == stopped.exited_at
    with pytest.raises(NotFound, match="container not created"):
        task.state()
    assert shims.events.wait("/tasks/delete", container_id="c1").exit_status == 7
    assert shims.events.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    exited = shims.events.wait("/tasks/exit")
    assert (exited.container_id, exited.id, exited.pid, exited.exit_status) == ("c1", "c1", pid, 7)


def test_streams(task: Task) -> None:
    sh(task, "cat; echo err >&2")
    paths = {name: task.fifo(name) for name in ("stdin", "stdout", "stderr")}
    with reader(paths["stdout"]) as out, reader(paths["stderr"]) as err:
        task.create(**{name: str(path) for name, path in paths.items()})
        task.start()
        with open(paths["stdin"], "wb") as stdin:
            stdin.write(b"typed\n")
        assert os.read(out, 100) == b"typed\n"
        # The client's end is closed, ours is not: stdin ends with CloseIO only.
        assert task.state().status == Status.RUNNING
        task.call("CloseIO", api.CloseIORequest(id="c1", stdin=True))
        assert task.wait() == 0
        task.delete()
        assert read_all(err) == b"err\n"


def test_ten_megabytes_pass_whole_and_delete_waits_for_them(task: Task) -> None:
    sh(task, "dd if=/dev/zero bs=1M count=10 2>/dev/null | tr '\\0' x")
    path = task.fifo("stdout")
    received: list[bytes] = []
    with reader(path) as out:
        task.create(stdout=str(path))
        task.start()
        pump = threading.Thread(target=lambda: received.append(read_all(out)))
        pump.start()
        assert task.wait() == 0
        task.delete()
        pump.join()
    assert len(received[0]) == 10 << 20
    assert set(received[0]) == {ord("x")}


def test_a_reader_away_stops_nobody_for_64_kib(task: Task) -> None:
    sh(task, "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done")
    path = task.fifo("stdout")
    with reader(path) as out:
        task.create(stdout=str(path))
        task.start()
        assert task.wait() == 0
        task.delete()
        assert read_all(out).decode().splitlines() == [f"line {i}" for i in range(200)]


def test_output_goes_to_a_file_appended(task: Task) -> None:
    path = task.folder / "logs" / "out.log"
    sh(task, "echo one; sleep 0.05; echo two >&2")
    task.create(stdout=f"file://{path}", stderr=f"file://{path}")
    task.start()
    assert task.wait() == 0
    task.delete()
    assert path.read_text() == "one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
def test_logger_program(task: Task, scheme: str) -> None:
    logger, log = task.folder / "logger", task.folder / "log"
    logger.write_text(
        "#!/bin/sh\n"
        f'echo "$CONTAINER_NAMESPACE/$CONTAINER_ID $@" > {log}\n'
        "printf x >&5; exec 5>&-\n"
        f"cat <&3 >> {log}\ncat <&4 >> {log}\n"
    )
    logger.chmod(0o755)
    sh(task, "echo out; echo err >&2")
    task.create(stdout=f"{scheme}://{logger}?key=value&flag=")
    task.start()
    assert task.wait() == 0
    task.delete()
    assert log.read_text() == f"{task.namespace}/c1 key value flag \nout\nerr\n"


def test_terminal(task: Task) -> None:
    task.spec["process"]["terminal"] = True
    sh(task, "tty; stty size; read line; echo got:$line; stty size; exit 4")
    stdin, stdout = task.fifo("stdin"), task.fifo("stdout")
    with reader(stdout) as out:
        task.create(terminal=True, stdin=str(stdin), stdout=str(stdout))
        task.call("ResizePty", api.ResizePtyRequest(id="c1", width=90, height=30))
        task.start()
        seen = read_until(out, b"30 90")
        assert b"/dev/pts/0" in seen or b"/dev/console" in seen
        task.call("ResizePty", api.ResizePtyRequest(id="c1", width=100, height=40))
        with open(stdin, "wb") as typed:
            typed.write(b"hello\n")
        seen = read_until(out, b"40 100")
        assert b"got:hello" in seen
        assert task.wait() == 4
        task.delete()
    assert not list(task.bundle.glob("pty*"))


def test_exec(shims: Shims, task: Task) -> None:
    task.create()
    task.start()
    stdout = task.fifo("stdout")
    with reader(stdout) as out:
        task.exec("e1", ["/bin/sh", "-c", "echo in exec; hostname; exit 3"], stdout=str(stdout))
        assert task.state("e1").status == Status.CREATED
        with pytest.raises(FailedPrecondition):
            task.kill(exec_id="e1")
        with pytest.raises(AlreadyExists):
            task.exec("e1", ["/bin/true"])
        pid = task.start("e1")
        assert task.wait("e1") == 3
        assert task.state("e1").status == Status.STOPPED
        with pytest.raises(NotFound, match="process already finished"):
            task.kill(exec_id="e1")
        assert task.delete("e1").pid == pid
        assert read_all(out) == b"in exec\ntesting\n"
    with pytest.raises(NotFound, match="process does not exist e1"):
        task.state("e1")
    shims.events.wait("/tasks/exit", id="e1")
    assert shims.events.topics()[2:] == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]


def test_exec_terminal(task: Task) -> None:
    task.create()
    task.start()
    stdin, stdout = task.fifo("stdin"), task.fifo("stdout")
    with reader(stdout) as out:
        task.exec("e1", ["/bin/sh"], terminal=True, stdin=str(stdin), stdout=str(stdout))
        task.start("e1")
        with open(stdin, "wb") as typed:
            typed.write(b"echo $((40+2)); exit 5\n")
        assert b"42" in read_until(out, b"42")
        assert task.wait("e1") == 5
        task.delete("e1")


def test_kill_and_status(task: Task) -> None:
    task.create()
    task.start()
    task.exec("e1", ["/bin/sleep", "1000"])
    task.start("e1")
    task.kill(signal.SIGTERM, exec_id="e1")
    assert task.wait("e1") == 128 + signal.SIGTERM
    task.kill(signal.SIGKILL)
    assert task.wait() == 128 + signal.SIGKILL
    with pytest.raises(NotFound, match="process already finished"):
        task.kill(signal.SIGTERM)


def test_init_exit_comes_after_its_execs(shims: Shims, task: Task) -> None:
    task.create()
    task.start()
    for number in range(3):
        task.exec(f"e{number}", ["/bin/sleep", "1000"])
        task.start(f"e{number}")
    task.kill(signal.SIGKILL)
    assert task.wait() == 137
    assert {task.wait(f"e{number}") for number in range(3)} == {137}
    shims.events.wait("/tasks/exit", id="c1")
    ids = [event.id for topic, event in shims.events.all() if topic == "/tasks/exit"]
    assert sorted(ids[:3]) == ["e0", "e1", "e2"] and ids[3:] == ["c1"]
    with pytest.raises(Error, match="cannot exec in a stopped state"):
        task.exec("late", ["/bin/true"])


def test_shared_pid_namespace_leaves_nobody(task: Task) -> None:
    task.spec["linux"]["namespaces"] = [{"type": kind} for kind in ("mount", "ipc", "uts")]
    sh(task, "sleep 1000 & sleep 1001 & exit 3")
    task.create()
    task.start()
    assert task.wait() == 3
    until(lambda: not leaks.Watch([], [task.namespace]).processes())
    task.delete()


def test_killed_before_start(shims: Shims, task: Task) -> None:
    task.create()
    task.kill(signal.SIGKILL)
    assert task.wait() == 137
    with pytest.raises(Error, match="cannot start a stopped process"):
        task.start()
    task.delete()
    shims.events.wait("/tasks/delete")
    assert shims.events.topics() == ["/tasks/create", "/tasks/exit", "/tasks/delete"]


def test_deleted_before_start(shims: Shims, task: Task) -> None:
    task.create()
    task.delete()
    shims.events.wait("/tasks/delete")
    assert shims.events.topics() == ["/tasks/create", "/tasks/exit", "/tasks/delete"]


def test_wrong_verbs(task: Task) -> None:
    task.create()
    with pytest.raises(Error, match="cannot pause task in created state"):
        task.call("Pause", api.PauseRequest(id="c1"))
    task.start()
    with pytest.raises(Error, match="cannot start a running process"):
        task.start()
    with pytest.raises(Error, match="cannot delete a running process"):
        task.delete()
    with pytest.raises(InvalidArgument, match="needs a path"):
        task.call("Checkpoint", api.CheckpointTaskRequest(id="c1"))
    with pytest.raises(InvalidArgument):
        task.exec("", ["/bin/true"])
    with pytest.raises(InvalidArgument):
        task.exec("bad/id", ["/bin/true"])
    with pytest.raises(NotFound):
        task.wait("nobody")
    with pytest.raises(AlreadyExists):
        task.create()


def test_pause_and_resume(shims: Shims, task: Task) -> None:
    task.create()
    task.start()
    task.exec("e1", ["/bin/sleep", "1000"])
    task.start("e1")
    task.call("Pause", api.PauseRequest(id="c1"))
    assert task.state().status == Status.PAUSED
    assert task.state("e1").status == Status.PAUSED
    with pytest.raises(Error, match="cannot exec in a paused state"):
        task.exec("e2", ["/bin/true"])
    task.call("Resume", api.ResumeRequest(id="c1"))
    assert task.state().status == Status.RUNNING
    task.call("Pause", api.PauseRequest(id="c1"))
    task.kill(signal.SIGKILL)
    assert task.wait() == 137
    for topic in ("/tasks/paused", "/tasks/resumed"):
        shims.events.wait(topic)


def test_pids_stats_and_update(task: Task) -> None:
    pid = task.create()
    task.start()
    task.exec("e1", ["/bin/sleep", "1000"])
    exec_pid = task.start("e1")
    processes = task.call("Pids", api.PidsRequest(id="c1"), api.PidsResponse).processes
    assert {process.pid for process in processes} == {pid, exec_pid}
    [info] = [process.info for process in processes if process.pid == exec_pid]
    assert ProcessDetails.FromString(info.value).exec_id == "e1"
    update = api.UpdateTaskRequest(id="c1")
    update.resources.value = json.dumps({"pids": {"limit": 77}, "memory": {"limit": 64 << 20}}).encode()
    task.call("Update", update)
    stats = task.call("Stats", api.StatsRequest(id="c1"), api.StatsResponse).stats
    assert stats.type_url == "io.containerd.cgroups.v1.Metrics"
    metrics = Metrics.FromString(stats.value)
    assert (metrics.pids.current, metrics.pids.limit) == (2, 77)
    assert metrics.memory.usage.limit == 64 << 20
    assert metrics.memory.usage.usage > 0 and metrics.cpu.usage.total > 0


def test_out_of_memory_is_told(shims: Shims, task: Task) -> None:
    task.spec["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    sh(task, "tail /dev/zero")
    task.create()
    task.start()
    assert task.wait() == 137 or task.state().exit_status
    assert shims.events.wait("/tasks/oom").container_id == "c1"


def test_rootfs_is_mounted_and_unmounted(task: Task, rootfs: Path) -> None:
    upper, work = task.folder / "upper", task.folder / "work"
    upper.mkdir()
    work.mkdir()
    task.spec["root"]["path"] = "rootfs"
    sh(task, "echo written > /made; sleep 1000")
    options = [f"lowerdir={rootfs}", f"upperdir={upper}", f"workdir={work}"]
    task.create(
        rootfs=[api.CreateTaskRequest().rootfs.add(type="overlay", source="overlay", options=options)]
    )
    assert os.path.ismount(task.bundle / "rootfs")
    task.start()
    until(lambda: (upper / "made").exists())
    task.kill()
    task.wait()
    task.delete()
    assert not os.path.ismount(task.bundle / "rootfs")


def test_failed_create_leaves_nothing(shims: Shims, task: Task, rootfs: Path) -> None:
    task.spec["process"]["cwd"] = "relative"
    task.spec["root"]["path"] = "rootfs"
    bind = api.CreateTaskRequest().rootfs.add(type="bind", source=str(rootfs), options=["rbind", "ro"])
    stdout = task.fifo("stdout")
    with pytest.raises(Error, match="OCI runtime create failed: "):
        task.create(rootfs=[bind], stdout=str(stdout))
    assert not os.path.ismount(task.bundle / "rootfs")
    with pytest.raises(NotFound):
        task.state()
    # The same id works once the reason is gone.
    task.spec["process"]["cwd"] = "/"
    task.create(rootfs=[bind])
    assert shims.events.wait("/tasks/create").rootfs[0].type == "bind"


@pytest.mark.parametrize(
    "fields",
    [
        {"stdin": "/nonexistent/fifo"},
        {"stdout": "/nonexistent/fifo"},
        {"stdout": "gopher://somewhere"},
        {"stdout": "binary:///nonexistent/logger"},
        {"rootfs": [{"type": "nosuchfs", "source": "none"}]},
        {"checkpoint": "/some/where"},
    ],
)
def test_bad_requests_leave_nothing(task: Task, fields: dict[str, object]) -> None:
    before = fds(task)
    with pytest.raises(Error):
        task.create(**fields)
    until(lambda: fds(task) <= before)
    task.create()


def test_failed_start_of_exec(shims: Shims, task: Task) -> None:
    task.create()
    task.start()
    before = fds(task)
    task.exec("e1", ["/no/such/program"], stdout=str(task.fifo("stdout")))
    with pytest.raises(Error, match="OCI runtime exec failed: "):
        task.start("e1")
    task.delete("e1")
    until(lambda: fds(task) <= before)
    assert "/tasks/exec-started" not in shims.events.topics()


def test_storm_of_execs(shims: Shims, task: Task) -> None:
    task.create()
    task.start()
    before = fds(task)
    statuses: dict[int, int] = {}

    def run(number: int) -> None:
        task.exec(f"e{number}", ["/bin/sh", "-c", f"exit {number}"])
        task.start(f"e{number}")
        statuses[number] = task.wait(f"e{number}")
        task.delete(f"e{number}")

    threads = [threading.Thread(target=run, args=[number]) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {number: number for number in range(50)}
    until(lambda: fds(task) <= before)
    shims.events.wait("/tasks/exit", id="e49")
    until(lambda: shims.events.topics().count("/tasks/exit") == 50)
    for number in range(50):
        mine = [
            topic
            for topic, event in shims.events.all()
            if getattr(event, "exec_id", "") == f"e{number}" or getattr(event, "id", "") == f"e{number}"
        ]
        assert mine == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]


def test_group_shares_a_shim_and_a_slow_hook_stops_nobody(shims: Shims) -> None:
    first, second = shims.start("g1", group="pod"), shims.start("g2", group="pod")
    assert first.address == second.address
    stdout = second.fifo("stdout")
    sh(second, "while true; do echo tick; sleep 0.05; done")
    begun, over = first.folder / "begun", first.fifo("over")
    hook = f"touch {begun}; read line < {over}"
    first.spec["hooks"] = {"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]}
    with reader(stdout) as out:
        second.create(stdout=str(stdout))
        second.start()
        starting = threading.Thread(target=lambda: (first.create(), first.start()))
        starting.start()
        until(begun.exists)
        assert second.state().status == Status.RUNNING
        assert os.read(out, 65536) and os.read(out, 65536)
        if not shims.runtime:
            # Debian's runc runs this hook in create, when there is nothing to kill yet.
            first.kill(signal.SIGKILL)
        assert starting.is_alive()
        over.write_text("\n")
        starting.join()
        if not shims.runtime:
            assert first.wait() == 137
    if shims.runtime:
        first.kill(signal.SIGKILL)
        first.wait()
    first.delete()
    first.shutdown()  # has no effect: the second container is still there
    assert second.state().status == Status.RUNNING


def test_a_client_that_hangs_up_changes_nothing(task: Task) -> None:
    sh(task, "exit 3")
    task.create()
    client = task.connect()
    request = api.WaitRequest(id="c1").SerializeToString()
    _, data = Calls().send("containerd.task.v3.Task", "Wait", request)
    client._socket.sendall(data)
    client.close()
    task.start()
    assert task.wait() == 3


def test_a_deadline_ends_the_wait_and_nothing_else(task: Task) -> None:
    """The client's budget, which it says with the call; the answer to a call that is done in time is the usual one."""
    task.create()
    task.start()
    with task.connect() as client:
        calls, asked = Calls(), {}
        for method, request, timeout in (
            ("Wait", api.WaitRequest(id="c1"), 0.05),
            ("State", api.StateRequest(id="c1"), 0.05),
            ("Wait", api.WaitRequest(id="c1"), 60),
            ("Pids", api.PidsRequest(id="c1"), 60),
        ):
            stream, data = calls.send(
                "containerd.task.v3.Task", method, request.SerializeToString(), timeout=timeout
            )
            client._socket.sendall(data)
            asked[stream] = (method, timeout)
        answers: dict[tuple[str, float], Result] = {}
        while len(answers) < 3:
            answers |= {asked[each.stream]: each for each in calls.receive(client._socket.recv(4096))}
        assert isinstance(answers["Wait", 0.05].error, DeadlineExceeded)
        assert api.StateResponse.FromString(answers["State", 0.05].payload).status == Status.RUNNING
        assert len(api.PidsResponse.FromString(answers["Pids", 60].payload).processes) == 1
        task.kill(9)
        while len(answers) < 4:
            answers |= {asked[each.stream]: each for each in calls.receive(client._socket.recv(4096))}
    assert api.WaitResponse.FromString(answers["Wait", 60].payload).exit_status == 137


def test_bad_frames_and_names(task: Task) -> None:
    with task.connect() as client:
        with pytest.raises(Unimplemented):
            client.call("containerd.task.v3.Task", "NoSuch", api.StateRequest(), api.StateResponse)
        with pytest.raises(Unimplemented):
            client.call("no.such.Service", "State", api.StateRequest(), api.StateResponse)
        length = frames.MAX_DATA + 1
        client._socket.sendall(struct.pack(">IIBB", length, 101, 1, 0) + bytes(length))
        data = b""
        while len(data) < 10:
            data += client._socket.recv(4096)
        assert struct.unpack_from(">I", data, 4)[0] == 101
    with Client(task.address) as again:
        answer = again.call(
            "containerd.task.v2.Task", "Connect", api.ConnectRequest(id="c1"), api.ConnectResponse
        )
    assert answer.shim_pid > 0 and answer.task_pid == 0


def test_container_gets_default_signals_and_no_descriptors(task: Task) -> None:
    stdout = task.fifo("stdout")
    sh(task, "grep -E 'Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd | tr '\\n' ' '")
    with reader(stdout) as out:
        task.create(stdout=str(stdout))
        task.start()
        task.wait()
        task.delete()
        seen = read_all(out).decode()
    masks = {line[:6]: int(line[7:], 16) for line in seen.splitlines() if line.startswith("Sig")}
    # glibc's posix_spawn ignores its two own signals (32, 33), which make hands down to all of us.
    assert masks["SigIgn"] & ~0x1_8000_0000 == 0 and masks["SigBlk"] == 0
    assert seen.split("\n")[-1].split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_delete_command_cleans_up_after_a_killed_shim(shims: Shims, rootfs: Path) -> None:
    task = shims.start("c1")
    task.spec["root"]["path"] = "rootfs"
    bind = api.CreateTaskRequest().rootfs.add(type="bind", source=str(rootfs), options=["rbind", "ro"])
    pid = task.create(rootfs=[bind])
    task.start()
    shim = task.call("Connect", api.ConnectRequest(id="c1"), api.ConnectResponse).shim_pid
    os.kill(shim, signal.SIGKILL)
    output = shims.run(task, "delete", "-bundle", str(task.bundle)).stdout
    answer = api.DeleteResponse.FromString(output)
    assert (answer.pid, answer.exit_status) == (pid, 137)
    assert not os.path.ismount(task.bundle / "rootfs")
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether it runs; whoever is its parent by now may take its time to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def read_until(fd: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        part = os.read(fd, 4096)
        assert part, f"ended before {wanted!r}: {seen!r}"
        seen += part
    return seen


def fds(task: Task) -> int:
    """How many descriptors the shim has open, once no call is on its way."""
    pid = task.call("Connect", api.ConnectRequest(id=task.id), api.ConnectResponse).shim_pid
    counts: list[int] = []

    def steady() -> bool:
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        return len(counts) > 3 and len(set(counts[-4:])) == 1

    until(steady)
    return counts[-1]
