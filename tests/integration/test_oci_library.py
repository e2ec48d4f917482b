"""The runtime as a library: called by a worker that then exits, as the shim does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.bundles import Bundle
from support.process import eventually

WORKER = """
import json, os, sys
from longshore.linux import processes
from longshore.oci import create, delete, events, exec, kill, pause, ps, resume, start, state, update

root, bundle = sys.argv[1:]
processes.set_child_subreaper()

def worker(function, *arguments, **options):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(function(*arguments, **options)).encode())
        except BaseException as error:
            os.write(write, json.dumps([type(error).__name__, str(error)]).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as file:
        return json.loads(file.read())

def children():
    return open(f"/proc/self/task/{os.getpid()}/children").read().split()

init = worker(create.create, root, "c", bundle)
assert children() == [str(init)], children()
worker(start.start, root, "c")
process = {"args": ["sh", "-c", "exit 6"], "cwd": "/", "env": ["PATH=/bin"]}
second = worker(exec.execute, root, "c", process)
assert os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) == 6
assert worker(exec.execute, root, "c", {"args": ["missing"], "cwd": "/"})[0] == "StartFailed"
assert children() == [str(init)], children()
worker(pause.pause, root, "c")
worker(resume.resume, root, "c")
worker(update.update, root, "c", {"pids": {"limit": 9}})
assert worker(ps.pids, root, "c") == [init]
assert worker(events.stats, root, "c")["pids"] == {"current": 1, "limit": 9}
assert state.load(root, "c").status == "running"
assert worker(delete.delete, root, "c")[0] == "WrongState"
worker(kill.kill, root, "c", 9)
assert os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) == -9
worker(delete.delete, root, "c")
assert worker(start.start, root, "c") == ["NotFound", "container does not exist"]
assert os.listdir(root) == []
"""


def complete(command: list[str], box: Bundle) -> subprocess.CompletedProcess[str]:
    """Run it with its errors in a file: a container that outlives it must not hold our pipe."""
    with (box.folder / "stderr").open("w+") as errors:
        done = subprocess.run(command, stdout=errors, stderr=errors, text=True, timeout=120, check=False)
    done.stderr = (box.folder / "stderr").read_text()
    return done


def test_workers_make_containers_and_leave(box: Bundle) -> None:
    box.config["process"]["args"] = ["sleep", "1000"]
    box.save()
    command = [sys.executable, "-c", WORKER, str(box.state), str(box.folder)]
    done = complete(command, box)
    assert done.returncode == 0, done.stderr


def test_a_hundred_starts_leave_no_descriptor(box: Bundle) -> None:
    """Create and delete in one process: what `create` opens, it closes."""
    code = """
import os, sys
from longshore.oci import create, delete
root, bundle = sys.argv[1:]
counts = []
for _ in range(20):
    pid = create.create(root, "c", bundle)
    delete.delete(root, "c", force=True)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    counts.append(len(os.listdir("/proc/self/fd")))
assert counts[0] == counts[-1], counts
"""
    box.save()
    command = [sys.executable, "-c", code, str(box.state), str(box.folder)]
    done = complete(command, box)
    assert done.returncode == 0, done.stderr


def test_reused_pid_is_not_signalled(box: Bundle) -> None:
    """The recorded pid now belongs to somebody else: kill must not reach it."""
    box.create("while :; do sleep 1000; done")
    other = subprocess.Popen(["sleep", "1000"])
    try:
        file = box.state / "c" / "state.json"
        saved = file.read_text()
        record = json.loads(saved)
        record["init_process_pid"] = other.pid
        file.write_text(json.dumps(record))
        assert box.inspect()["status"] == "stopped"
        assert box.call("kill", "c", "KILL").returncode == 1
        assert other.poll() is None
        file.write_text(saved)
    finally:
        other.kill()
        other.wait()


EXEC_LATE = """
import os, select, sys
from longshore.oci import exec as exec_, delete, errors, kill
root, moment = sys.argv[1:3]
prepared, forked = exec_.Exec._prepare, exec_.Exec._fork
def gone():
    delete.delete(root, "c", force=True)
def before(self):
    gone()
    prepared(self)
def between(self):
    prepared(self)
    gone()
def after(self):
    found = forked(self)
    # Init can't end, and be deleted, before its last child is waited for: by us. That one is killed first.
    kill.kill(root, "c", 9)
    poll = select.poll()
    poll.register(found[1], select.POLLIN)
    assert poll.poll(60000)
    return found
change = {"before": before, "between": between, "after": after}[moment]
setattr(exec_.Exec, "_fork" if moment == "after" else "_prepare", change)
process = {"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"]}
try:
    exec_.execute(root, "c", process)
except errors.NotRunning as error:
    assert str(error) == "cannot exec in a stopped container", error
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        sys.exit(0)  # its process, if there was one, has gone with it
sys.exit(1)
"""


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_exec_in_a_container_that_goes_meanwhile(box: Bundle, moment: str) -> None:
    box.create("while :; do sleep 1000; done")
    box.do("start", "c")
    done = complete([sys.executable, "-c", EXEC_LATE, str(box.state), moment], box)
    assert done.returncode == 0, done.stderr


def test_freezing_really_stops(box: Bundle) -> None:
    box.create("while :; do echo >>/tmp/ticks; usleep 1000; done")
    box.do("start", "c")
    ticks = box.root / "tmp/ticks"
    box.do("pause", "c")
    size = ticks.stat().st_size if ticks.exists() else 0
    time.sleep(0.05)
    assert (ticks.stat().st_size if ticks.exists() else 0) == size
    box.do("resume", "c")
    eventually(lambda: ticks.exists() and ticks.stat().st_size > size)


def test_time_namespace_offsets(box: Bundle) -> None:
    box.config["linux"]["namespaces"].append({"type": "time"})
    box.config["linux"]["timeOffsets"] = {"boottime": {"secs": 864000}, "monotonic": {"secs": 864000}}
    pid = box.create("cat /proc/uptime >/tmp/uptime; while :; do sleep 1000; done")
    box.do("start", "c")
    out = box.do("exec", "c", "cat", "/proc/uptime")
    assert float(out.split()[0]) > 864000
    assert os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")


def test_namespaces_by_path(box: Bundle) -> None:
    with subprocess.Popen(
        ["unshare", "-n", "-i", "-u", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for space in box.config["linux"]["namespaces"]:
            file = {"network": "net", "ipc": "ipc", "uts": "uts"}.get(space["type"])
            if file:
                space["path"] = f"/proc/{holder.pid}/ns/{file}"
        pid = box.create("true")
        for file in ("net", "ipc", "uts"):
            assert os.readlink(f"/proc/{pid}/ns/{file}") == os.readlink(f"/proc/{holder.pid}/ns/{file}")
        assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
        holder.kill()


def test_shares_a_pid_namespace_with_another_container(box: Bundle) -> None:
    first = box.create("while :; do sleep 1000; done")
    box.do("start", "c")
    for space in box.config["linux"]["namespaces"]:
        if space["type"] in ("pid", "ipc", "network"):
            space["path"] = f"/proc/{first}/ns/{ {'network': 'net'}.get(space['type'], space['type']) }"
    box.config["linux"]["cgroupsPath"] += "2"
    box.shell("cat /proc/1/comm")
    assert box.do("run", "c2") == "sh\n"
    assert Path(f"/proc/{first}").exists()


def test_idmapped_mount(box: Bundle) -> None:
    source = box.folder / "source"
    source.mkdir()
    (source / "file").touch()
    os.chown(source / "file", 5, 6)
    mapping = [{"containerID": 5, "hostID": 1005, "size": 10}]
    box.config["mounts"].append(
        {
            "destination": "/mapped",
            "type": "bind",
            "source": str(source),
            "options": ["bind", "idmap"],
            "uidMappings": mapping,
            "gidMappings": mapping,
        }
    )
    assert box.run("stat -c '%u %g' /mapped/file").stdout == "1005 1006\n"


def test_scheduler_io_priority_and_personality(box: Bundle) -> None:
    box.config["process"] |= {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
    }
    box.config["linux"]["personality"] = {"domain": "LINUX32"}
    pid = box.create("exec sleep 1000")
    box.do("start", "c")
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16] == "5"
    assert Path(f"/proc/{pid}/personality").read_text() == "00000008\n"
    box.config["process"]["scheduler"] = {"policy": "SCHED_NOPE"}
    assert "invalid scheduler policy" in box.call("run", "c2").stderr


def test_force_delete_of_a_damaged_state(box: Bundle) -> None:
    (box.state / "c").mkdir(parents=True)
    (box.state / "c" / "state.json").write_text("")
    assert box.call("delete", "c").returncode == 1
    assert box.do("list", "-q") == ""
    box.do("delete", "--force", "c")
    assert not (box.state / "c").exists()


def test_exec_into_a_paused_container_when_told_to(box: Bundle) -> None:
    box.create("exec sleep 1000")
    box.do("start", "c")
    box.do("pause", "c")
    command = [*box.runtime, "--root", box.state, "exec", "--ignore-paused", "c", "echo", "late"]
    with subprocess.Popen(command, cwd=box.folder, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        time.sleep(0.1)
        assert waiting.poll() is None
        box.do("resume", "c")
        assert waiting.stdout.read() == "late\n"
