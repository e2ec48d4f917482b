"""Each verb of the runtime, from the command line, on real containers."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.bundles import MAPPING, Bundle
from support.process import eventually

FOREVER = "trap exit TERM; while :; do sleep 1000 & wait $!; done"


def error_of(box: Bundle, *words: str | Path) -> str:
    """The message a verb fails with, from the JSON log as a shim reads it; standard error says it, too."""
    log = box.folder / "log.json"
    log.unlink(missing_ok=True)
    done = box.call("--log", log, "--log-format", "json", *words)
    assert done.returncode != 0, done.stdout
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert last["msg"] in done.stderr
    message: str = last["msg"]
    return message


def status(box: Bundle) -> str:
    found: str = box.inspect()["status"]
    return found


def test_run_gives_output_and_status(box: Bundle) -> None:
    done = box.run("echo out; echo err >&2; cat; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert not list(box.state.iterdir())


def test_run_passes_input(box: Bundle) -> None:
    box.shell("cat")
    assert box.do("run", "c", text="hello") == "hello"


def test_run_killed_is_128_and_signal(box: Bundle) -> None:
    box.config["linux"]["namespaces"].remove({"type": "pid"})  # PID 1 of a namespace can't kill itself
    assert box.run("kill -9 $$").returncode == 128 + 9


def test_life(box: Bundle) -> None:
    pid = box.create(FOREVER)
    assert status(box) == "created"
    assert Path(f"/proc/{pid}/cgroup").read_text().count(f"/{box.name}/c") >= 9
    box.do("start", "c")
    assert status(box) == "running"
    assert error_of(box, "start", "c") == "cannot start an already running container"
    assert error_of(box, "delete", "c") == "cannot delete container c that is not stopped: running"
    box.do("pause", "c")
    assert status(box) == "paused"
    assert "cannot exec in a paused container" in error_of(box, "exec", "c", "true")
    assert error_of(box, "pause", "c") == "container not running"
    box.do("resume", "c")
    assert error_of(box, "resume", "c") == "container not paused"
    box.do("kill", "c", "TERM")
    eventually(lambda: status(box) == "stopped")
    assert error_of(box, "kill", "c", "TERM") == "container not running"
    assert error_of(box, "start", "c") == "cannot start a container that has stopped"
    assert "cannot exec in a stopped container" in error_of(box, "exec", "c", "true")
    box.do("delete", "c")
    assert error_of(box, "state", "c") == "container does not exist"
    assert not Path(f"/sys/fs/cgroup/pids/{box.name}").exists()


def test_created_container_can_be_killed_and_deleted(box: Bundle) -> None:
    box.create(FOREVER)
    box.do("kill", "c", "TERM")
    eventually(lambda: status(box) == "stopped")
    box.do("delete", "c")
    box.create(FOREVER)
    box.do("delete", "c")
    assert error_of(box, "state", "c") == "container does not exist"


def test_force_deletes_a_running_and_a_paused_one(box: Bundle) -> None:
    for freeze in (False, True):
        box.create(FOREVER)
        box.do("start", "c")
        if freeze:
            box.do("pause", "c")
        box.do("delete", "--force", "c")
        assert not box.cgroup("pids").exists()
    box.do("delete", "--force", "never-was")


def test_kill_all_without_a_pid_namespace(box: Bundle) -> None:
    spaces = box.config["linux"]["namespaces"]
    spaces.remove({"type": "pid"})
    pid = box.create("sleep 1000 & sleep 1000 & wait")
    box.do("start", "c")
    eventually(lambda: len(json.loads(box.do("ps", "--format", "json", "c"))) == 3)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: status(box) == "stopped")
    box.do("kill", "--all", "c", "KILL")
    eventually(lambda: not json.loads(box.do("ps", "--format", "json", "c")))


def test_ids_and_arguments(box: Bundle) -> None:
    assert error_of(box, "create", "a/b").endswith("invalid container ID format")
    assert error_of(box, "create", "..").endswith("invalid container ID format")
    assert error_of(box, "create", "").endswith("container id cannot be empty")
    assert "requires exactly 1 argument(s)" in error_of(box, "start")
    assert "flag provided but not defined: -nope" in error_of(box, "start", "--nope", "c")
    assert error_of(box, "kill", "nobody", "9") == "container does not exist"
    assert 'unknown signal "FOO"' in error_of(box, "kill", "c", "FOO")
    box.create(FOREVER)
    assert error_of(box, "create", "c") == "runc create failed: container with given ID already exists"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], 'exec: "nope": executable file not found in $PATH'),
        (["/nope"], 'exec: "/nope": stat /nope: no such file or directory'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_missing_program_is_an_error_of_create_and_exec(
    box: Bundle, arguments: list[str], message: str
) -> None:
    box.config["process"]["args"] = arguments
    assert error_of(box, "run", "c") == f"runc run failed: unable to start container process: {message}"
    box.create(FOREVER)
    box.do("start", "c")
    failed = box.call("exec", "c", *arguments)
    assert failed.returncode == 255
    assert message in failed.stderr.replace('\\"', '"')


def test_exec_has_its_own_status_user_and_directory(box: Bundle) -> None:
    box.create(FOREVER)
    box.do("start", "c")
    done = box.call(
        "exec",
        "--user",
        "1000:1001",
        "--env",
        "A=b",
        "--cwd",
        "/tmp",
        "c",
        "sh",
        "-c",
        "id; pwd; echo $A; exit 4",
    )
    assert done.returncode == 4
    assert done.stdout.splitlines() == ["uid=1000 gid=1001", "/tmp", "b"]
    inside = box.do("exec", "c", "cat", "/proc/self/cgroup", "/proc/1/comm")
    assert "sh\n" in inside
    assert all(line.endswith(":/") for line in inside.splitlines() if line.count(":") == 2)


def test_exec_as_a_shim_does_it(box: Bundle) -> None:
    pid = box.create(FOREVER)
    box.do("start", "c")
    process = {"args": ["sh", "-c", "echo $$ >/tmp/pid; exec sleep 1000"], "cwd": "/", "env": ["PATH=/bin"]}
    (box.folder / "process.json").write_text(json.dumps(process))
    box.detached("exec", "--process", "process.json", "--detach", "--pid-file", "exec.pid", "c")
    started = int((box.folder / "exec.pid").read_text())
    assert sorted(json.loads(box.do("ps", "--format", "json", "c")))[0] == pid
    assert started in json.loads(box.do("ps", "--format", "json", "c"))
    for namespace in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{started}/ns/{namespace}") == os.readlink(f"/proc/{pid}/ns/{namespace}")


def test_exec_into_a_user_namespace(box: Bundle) -> None:
    for path in (box.folder, box.root):
        path.chmod(0o755)
    box.config["linux"]["namespaces"].append({"type": "user"})
    box.config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    pid = box.create(FOREVER)
    box.do("start", "c")
    assert box.do("exec", "c", "id").strip() == "uid=0(root) gid=0(root)"
    box.detached("exec", "--detach", "--pid-file", "p", "c", "sleep", "1000")
    started = int((box.folder / "p").read_text())
    for namespace in ("user", "mnt", "net", "pid"):
        assert os.readlink(f"/proc/{started}/ns/{namespace}") == os.readlink(f"/proc/{pid}/ns/{namespace}")
    assert "Uid:\t100000\t100000\t100000\t100000" in Path(f"/proc/{started}/status").read_text()


def receive_terminal(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    with connection:
        _, rights, _, _ = connection.recvmsg(128, socket.CMSG_SPACE(4))
    return array.array("i", rights[0][2])[0]


def read_until(terminal: int, word: bytes) -> bytes:
    seen = b""
    while word not in seen:
        seen += os.read(terminal, 4096)
    return seen


@pytest.mark.parametrize("verb", ["create", "exec"])
def test_terminal_by_console_socket(box: Bundle, verb: str) -> None:
    path = box.folder / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        script = "tty; stty size; test -e /dev/console && echo console; read x; echo got $x"
        if verb == "create":
            box.config["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 77}}
            box.shell(script)
            box.do("create", "--console-socket", path, "c")
        else:
            box.create(FOREVER)
            box.do("start", "c")
            process = {
                "terminal": True,
                "consoleSize": {"height": 33, "width": 77},
                "args": ["sh", "-c", script],
                "cwd": "/",
                "env": ["PATH=/bin"],
            }
            (box.folder / "p.json").write_text(json.dumps(process))
            box.do("exec", "-d", "--process", "p.json", "--console-socket", path, "c")
        terminal = receive_terminal(listener)
    try:
        if verb == "create":
            box.do("start", "c")
        seen = read_until(terminal, b"console" if verb == "create" else b"33 77")
        assert b"/dev/pts/0" in seen
        assert b"33 77" in seen
        os.write(terminal, b"line\n")
        read_until(terminal, b"got line")
    finally:
        os.close(terminal)


def test_ps_list_events_update(box: Bundle) -> None:
    pid = box.create(FOREVER)
    box.do("start", "c")
    assert f" {pid} " in box.do("ps", "c")
    listed = json.loads(box.do("list", "--format", "json"))
    assert [(each["id"], each["pid"], each["status"]) for each in listed] == [("c", pid, "running")]
    assert box.do("list", "-q") == "c\n"
    assert box.do("list").splitlines()[1].split()[:3] == ["c", str(pid), "running"]
    event = json.loads(box.do("events", "--stats", "c"))
    assert event["type"] == "stats"
    assert event["data"]["pids"]["current"] >= 1
    assert event["data"]["memory"]["usage"]["usage"] > 0
    assert event["data"]["cpu"]["usage"]["total"] > 0
    resources: dict[str, Any] = {"memory": {"limit": 33554432}, "pids": {"limit": 20}, "cpu": {"shares": 77}}
    box.do("update", "--resources", "-", "c", text=json.dumps(resources))
    assert (box.cgroup("memory") / "memory.limit_in_bytes").read_text() == "33554432\n"
    assert (box.cgroup("pids") / "pids.max").read_text() == "20\n"
    assert (box.cgroup("cpu") / "cpu.shares").read_text() == "77\n"
    box.do("update", "--memory", "64M", "--pids-limit", "-1", "c")
    assert (box.cgroup("memory") / "memory.limit_in_bytes").read_text() == "67108864\n"
    assert (box.cgroup("pids") / "pids.max").read_text() == "max\n"
    assert "cpuset.cpus: numerical result out of range" in error_of(
        box, "update", "--cpuset-cpus", "999", "c"
    )


def test_spec_and_features(box: Bundle) -> None:
    folder = box.folder / "fresh"
    folder.mkdir()
    box.do("spec", "--bundle", folder)
    box.config = json.loads((folder / "config.json").read_text())
    assert box.config["process"]["args"] == ["sh"]
    box.config["process"] |= {"terminal": False, "args": ["hostname"]}
    box.config["linux"]["cgroupsPath"] = f"/{box.name}/c"
    assert box.do("run", "c") == "runc\n"
    assert "File config.json exists" in error_of(box, "spec", "--bundle", folder)
    features = json.loads(box.do("features"))
    assert "createContainer" in features["hooks"]
    assert "SCMP_ACT_ERRNO" in features["linux"]["seccomp"]["actions"]


def test_preserved_descriptors(box: Bundle) -> None:
    read, write = os.pipe()
    try:
        box.shell("echo through >&3; ls /proc/self/fd | wc -l")
        out = box.do("run", "--preserve-fds", "1", "c", pass_fds=(3,), preexec_fn=lambda: os.dup2(write, 3))
        assert os.read(read, 100) == b"through\n"
        assert out == "5\n"  # 0, 1, 2, 3 and ls' own
    finally:
        os.close(read)
        os.close(write)


def test_pid_file(box: Bundle) -> None:
    box.shell("sleep 1000")
    box.detached("run", "--detach", "--pid-file", "the.pid", "c")
    assert int((box.folder / "the.pid").read_text()) == box.inspect()["pid"]


def test_a_signal_that_comes_early_is_not_lost_and_kills_nobody_else(box: Bundle) -> None:
    """While a hook runs, long before there is a program."""
    box.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo >there; sleep 0.2"]}]
    }
    box.config["process"]["args"] = ["sleep", "1000"]
    box.config["linux"]["namespaces"].remove({"type": "pid"})
    box.save()
    command = [*box.runtime, "--root", box.state, "run", "c"]
    with subprocess.Popen(command, cwd=box.folder) as running:
        eventually((box.folder / "there").exists)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 128 + signal.SIGTERM


def test_signals_reach_a_foreground_container(box: Bundle) -> None:
    box.shell("trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.1; done")
    box.save()
    command = [*box.runtime, "--root", box.state, "run", "c"]
    with subprocess.Popen(command, cwd=box.folder, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGUSR1)
        assert running.stdout.readline() == "caught\n"
        assert running.wait(60) == 5
