"""Debian's real ctr, command by command: Debian's containerd and ours must look the same to it."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import ctr, host, images
from support.daemon import Longshore
from support.events import Watcher
from support.process import eventually
from support.realdaemon import RealContainerd

Daemon = RealContainerd | Longshore


@contextmanager
def running(containerd: Daemon, name: str, *command: str) -> Iterator[None]:
    """A detached container that is killed and removed at the end, whatever the test did to it."""
    containerd.go_ctr("run", "-d", images.BUSYBOX, name, *(command or ("sleep", "1000")))
    try:
        yield
    finally:
        containerd.go_ctr("tasks", "kill", "-s", "KILL", name, check=False)
        stopped(containerd, name)
        containerd.go_ctr("tasks", "rm", name, check=False)
        containerd.go_ctr("containers", "rm", name, check=False)


def status(containerd: Daemon, name: str) -> str:
    """RUNNING, STOPPED, ..., or "" without a task."""
    table = ctr.rows(containerd.go_ctr("tasks", "ls").stdout)
    return next((row[2] for row in table if row[0] == name), "")


def stopped(containerd: Daemon, name: str) -> None:
    eventually(lambda: status(containerd, name) in ("STOPPED", ""), what=f"{name} is stopped")


def test_version(containerd: Daemon) -> None:
    said = containerd.go_ctr("version").stdout
    assert re.search(r"Server:\n\s+Version:\s+\S+\n\s+Revision:\s+\S+\n\s+UUID:\s+[0-9a-f-]{36}\n", said)


def test_plugins(containerd: Daemon) -> None:
    rows = ctr.rows(containerd.go_ctr("plugins", "ls").stdout)
    states = {(row[0], row[1]): row[-1] for row in rows}
    for kind, plugin in [
        ("io.containerd.content.v1", "content"),
        ("io.containerd.snapshotter.v1", "overlayfs"),
        ("io.containerd.snapshotter.v1", "native"),
        ("io.containerd.grpc.v1", "tasks"),
    ]:
        assert states[kind, plugin] == "ok"


def test_images(containerd: Daemon, tmp_path: Path) -> None:
    archive = images.busybox_archive(tmp_path, "example.org/box:1")
    said = containerd.go_ctr("images", "import", archive).stdout
    assert re.match(r"unpacking example.org/box:1 \(sha256:[0-9a-f]{64}\)\.\.\.done", said)
    assert "example.org/box:1" in containerd.go_ctr("images", "ls", "-q").stdout.split()
    row = next(
        row for row in ctr.rows(containerd.go_ctr("images", "ls").stdout) if row[0] == "example.org/box:1"
    )
    assert row[1] == "application/vnd.oci.image.manifest.v1+json"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", row[2])
    assert row[5].startswith("linux/")
    checked = ctr.rows(containerd.go_ctr("images", "check", "name==example.org/box:1").stdout)
    assert "complete" in checked[0] and checked[0][-1] == "true"
    containerd.go_ctr("images", "label", "example.org/box:1", "color=red")
    assert "color=red" in containerd.go_ctr("images", "ls", "name==example.org/box:1").stdout
    containerd.go_ctr("images", "tag", "example.org/box:1", "example.org/box:2")
    containerd.go_ctr("images", "rm", "--sync", "example.org/box:1", "example.org/box:2")
    assert "example.org" not in containerd.go_ctr("images", "ls", "-q").stdout


def test_image_of_no_name_is_not_found(containerd: Daemon) -> None:
    done = containerd.go_ctr("run", "--rm", "example.org/nothing:1", "x", check=False)
    assert done.returncode != 0 and "not found" in done.stderr


def test_run(containerd: Daemon, name: str) -> None:
    script = "echo out; echo err >&2; test -f /etc/passwd && exit 7"
    done = containerd.go_ctr("run", "--rm", images.BUSYBOX, name, "sh", "-c", script, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert name not in containerd.go_ctr("containers", "ls", "-q").stdout.split()
    assert name not in ctr.column(containerd.go_ctr("snapshots", "ls").stdout)


def test_run_on_the_native_snapshotter(containerd: Daemon, name: str, tmp_path: Path) -> None:
    containerd.go_ctr("images", "import", "--snapshotter", "native", images.busybox_archive(tmp_path))
    done = containerd.go_ctr("run", "--rm", "--snapshotter", "native", images.BUSYBOX, name, "echo", "out")
    assert done.stdout == "out\n"


def test_run_writes_much(containerd: Daemon, name: str) -> None:
    done = containerd.go_ctr("run", "--rm", images.BUSYBOX, name, "seq", "200000")
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 200_001))


def test_run_options(containerd: Daemon, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host")
    mount = f"type=bind,src={tmp_path},dst=/host,options=rbind:ro"
    script = (
        "echo $COLOR; pwd; cat /host/file; touch /host/x 2>&1; id -u; cat /proc/self/status | grep NoNewPrivs"
    )
    done = containerd.go_ctr(
        *("run", "--rm", "--env", "COLOR=red", "--cwd", "/tmp", "--mount", mount),
        *(images.BUSYBOX, name, "sh", "-c", script),
    )
    assert done.stdout.splitlines() == [
        "red",
        "/tmp",
        "of the hosttouch: /host/x: Read-only file system",
        "0",
        "NoNewPrivs:\t1",
    ]


def test_run_of_a_missing_program_says_so(containerd: Daemon, name: str) -> None:
    done = containerd.go_ctr("run", "--rm", images.BUSYBOX, name, "no-such-program", check=False)
    assert done.returncode != 0
    assert 'exec: "no-such-program": executable file not found in $PATH' in done.stderr
    assert name not in containerd.go_ctr("containers", "ls", "-q").stdout.split()


def test_run_on_a_root_folder(containerd: Daemon, name: str, tmp_path: Path) -> None:
    root = images.busybox_rootfs(tmp_path)
    done = containerd.go_ctr("run", "--rm", "--rootfs", root, name, "/bin/cat", "/etc/hostname")
    assert done.stdout == "busybox\n"


def test_run_with_a_terminal(containerd: Daemon, name: str) -> None:
    master, slave = pty.openpty()
    script = "tty; read line; echo got $line; exit 3"
    command = ["run", "--rm", "-t", images.BUSYBOX, name, "sh", "-c", script]
    process = containerd.popen(*command, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    try:
        read_until(master, "/dev/pts/0")
        os.write(master, b"hello\n")
        read_until(master, "got hello")
        assert process.wait(60) == 3
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until(terminal: int, word: str) -> str:
    said = ""
    while word not in said:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, f"{word!r} is not in {said!r}"
        said += os.read(terminal, 65536).decode()
    return said


def test_tasks_and_their_processes(containerd: Daemon, name: str) -> None:
    with running(containerd, name):
        row = next(row for row in ctr.rows(containerd.go_ctr("tasks", "ls").stdout) if row[0] == name)
        assert row[2] == "RUNNING" and int(row[1]) > 1
        assert [row[1]] == ctr.column(containerd.go_ctr("tasks", "ps", name).stdout)
        assert name in containerd.go_ctr("tasks", "ls", "-q").stdout.split()


def test_task_exec(containerd: Daemon, name: str) -> None:
    with running(containerd, name):
        script = "echo out; echo err >&2; cat; exit 5"
        done = containerd.go_ctr(
            *("tasks", "exec", "--exec-id", "e1", name, "sh", "-c", script), input="in\n", check=False
        )
        assert (done.stdout, done.stderr, done.returncode) == ("out\nin\n", "err\n", 5)
        containerd.go_ctr("tasks", "exec", "-d", "--exec-id", "e2", name, "sleep", "1000")
        processes = containerd.go_ctr("tasks", "ps", name).stdout
        assert len(ctr.rows(processes)) == 2 and "e2" in processes
        containerd.go_ctr("tasks", "kill", "--exec-id", "e2", "-s", "KILL", name)
        eventually(lambda: len(ctr.rows(containerd.go_ctr("tasks", "ps", name).stdout)) == 1)

        def deleted() -> bool:  # its process is gone, and its shim is about to hear of it
            gone = containerd.go_ctr("tasks", "delete", "--exec-id", "e2", name, check=False)
            return gone.returncode == 137 or "137" in gone.stdout + gone.stderr

        eventually(deleted)


def test_task_exec_with_a_terminal(containerd: Daemon, name: str) -> None:
    with running(containerd, name):
        master, slave = pty.openpty()
        command = [
            "tasks",
            "exec",
            "-t",
            "--exec-id",
            "e1",
            name,
            "sh",
            "-c",
            "tty; read x; echo got $x; exit 4",
        ]
        process = containerd.popen(*command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        try:
            read_until(master, "/dev/pts/")
            os.write(master, b"word\n")
            read_until(master, "got word")
            assert process.wait(60) == 4
        finally:
            process.kill()
            process.wait()
            os.close(master)


def test_task_kill(containerd: Daemon, name: str) -> None:
    with running(containerd, name, "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done"):

        def ended() -> bool:  # the shell may not have come to its trap yet: a first process ignores the rest
            containerd.go_ctr("tasks", "kill", name, check=False)
            return status(containerd, name) == "STOPPED"

        eventually(ended)
        again = containerd.go_ctr("tasks", "kill", name, check=False)
        assert "process already finished: not found" in again.stderr
        done = containerd.go_ctr("tasks", "delete", name, check=False)
        assert done.returncode == 9 or "9" in done.stdout + done.stderr


def test_task_pause_and_resume(containerd: Daemon, name: str) -> None:
    with running(containerd, name):
        containerd.go_ctr("tasks", "pause", name)
        assert status(containerd, name) == "PAUSED"
        refused = containerd.go_ctr("tasks", "exec", "--exec-id", "e1", name, "true", check=False)
        assert refused.returncode != 0
        containerd.go_ctr("tasks", "resume", name)
        assert status(containerd, name) == "RUNNING"


def test_task_metrics(containerd: Daemon, name: str) -> None:
    with running(containerd, name):
        table = containerd.go_ctr("tasks", "metrics", name).stdout
        assert re.search(rf"^{name}\s", table, re.MULTILINE)
        values = {row[0]: row[1] for row in ctr.rows(table) if len(row) == 2}
        assert int(values["memory.usage_in_bytes"]) > 0 and int(values["cpuacct.usage"]) > 0
        metrics = json.loads(containerd.go_ctr("tasks", "metrics", "--format", "json", name).stdout)
        assert metrics["pids"]["current"] == 1


def test_running_task_is_not_deleted(containerd: Daemon, name: str) -> None:
    with running(containerd, name):
        refused = containerd.go_ctr("tasks", "delete", name, check=False)
        assert "must be stopped before deletion" in refused.stderr + refused.stdout
        kept = containerd.go_ctr("containers", "rm", name, check=False)
        assert "cannot delete a non stopped container" in kept.stderr
        assert status(containerd, name) == "RUNNING"


def test_second_task_of_a_container_is_refused(containerd: Daemon, name: str) -> None:
    with running(containerd, name):
        again = containerd.go_ctr("tasks", "start", "-d", name, check=False)
        assert again.returncode != 0 and "already exists" in again.stderr
        twice = containerd.go_ctr("run", "-d", images.BUSYBOX, name, "true", check=False)
        assert twice.returncode != 0 and "already exists" in twice.stderr


def test_containers(containerd: Daemon, name: str) -> None:
    containerd.go_ctr("containers", "create", "--label", "color=red", images.BUSYBOX, name, "false")
    row = next(row for row in ctr.rows(containerd.go_ctr("containers", "ls").stdout) if row[0] == name)
    assert row == [name, images.BUSYBOX, "io.containerd.runc.v2"]
    assert containerd.go_ctr("containers", "ls", "-q", f"id=={name}").stdout.split() == [name]
    info = json.loads(containerd.go_ctr("containers", "info", name).stdout)
    assert info["ID"] == name and info["Labels"]["color"] == "red" and info["SnapshotKey"] == name
    assert info["Spec"]["process"]["args"] == ["false"]
    containerd.go_ctr("containers", "label", name, "color=", "size=big")
    labels = json.loads(containerd.go_ctr("containers", "info", name).stdout)["Labels"]
    assert labels["size"] == "big" and "color" not in labels
    done = containerd.go_ctr("tasks", "start", name, check=False)
    assert done.returncode == 1
    containerd.go_ctr("containers", "rm", name)
    missing = containerd.go_ctr("containers", "info", name, check=False)
    assert f'container "{name}" in namespace "{containerd.namespace}": not found' in missing.stderr


def test_snapshots(containerd: Daemon, name: str) -> None:
    rows = ctr.rows(containerd.go_ctr("snapshots", "ls").stdout)
    base = next(row[0] for row in rows if row[-1] == "Committed")
    containerd.go_ctr("snapshots", "prepare", name, base)
    row = next(row for row in ctr.rows(containerd.go_ctr("snapshots", "ls").stdout) if row[0] == name)
    assert row == [name, base, "Active"]
    tree = containerd.go_ctr("snapshots", "tree").stdout
    assert re.search(rf"{base}\n(?:  \S+ \S+\n)*  \S+ {name}\n", tree)
    usage = next(row for row in ctr.rows(containerd.go_ctr("snapshots", "usage").stdout) if row[0] == base)
    assert int(usage[-1]) > 250  # inodes: a link for every applet
    assert "overlay" in containerd.go_ctr("snapshots", "mounts", "/nowhere", name).stdout
    info = json.loads(containerd.go_ctr("snapshots", "info", name).stdout)
    assert (info["Kind"], info["Name"], info["Parent"]) == ("Active", name, base)
    refused = containerd.go_ctr("snapshots", "rm", base, check=False)
    assert "cannot remove snapshot with child" in refused.stderr
    containerd.go_ctr("snapshots", "commit", f"{name}-done", name)
    containerd.go_ctr("snapshots", "label", f"{name}-done", "color=red")
    labels = json.loads(containerd.go_ctr("snapshots", "info", f"{name}-done").stdout)["Labels"]
    assert labels["color"] == "red" and "containerd.io/gc.root" in labels
    containerd.go_ctr("snapshots", "view", name, f"{name}-done")
    containerd.go_ctr("snapshots", "rm", name)
    containerd.go_ctr("snapshots", "rm", f"{name}-done")
    assert name not in containerd.go_ctr("snapshots", "ls").stdout


def ingest(containerd: Daemon, name: str, blob: str, *flags: str) -> str:
    """Put a blob in and mark it as a root at once: nothing else keeps it from the next garbage collection."""
    digest = f"sha256:{hashlib.sha256(blob.encode()).hexdigest()}"

    def kept() -> bool:
        containerd.go_ctr(*flags, "content", "ingest", f"ref-{name}", input=blob)
        labelled = containerd.go_ctr(
            *flags, "content", "label", digest, "containerd.io/gc.root=yes", check=False
        )
        return labelled.returncode == 0

    eventually(kept, what="the blob is labelled before it is collected")
    return digest


def test_content(containerd: Daemon, name: str) -> None:
    blob = f"a blob of {name}"
    digest = ingest(containerd, name, blob)
    row = next(row for row in ctr.rows(containerd.go_ctr("content", "ls").stdout) if row[0] == digest)
    assert row[1] == f"{len(blob)}B"
    assert containerd.go_ctr("content", "get", digest).stdout == blob
    containerd.go_ctr("content", "label", digest, "color=red")
    assert "color=red" in containerd.go_ctr("content", "ls").stdout
    assert digest in containerd.go_ctr("content", "ls", "-q").stdout.split()
    containerd.go_ctr("content", "rm", digest)
    assert digest not in containerd.go_ctr("content", "ls", "-q").stdout.split()
    missing = containerd.go_ctr("content", "get", digest, check=False)
    assert f"{digest}: not found" in missing.stderr
    lying = containerd.go_ctr(
        "content", "ingest", "--expected-digest", f"sha256:{'0' * 64}", f"lie-{name}", input=blob, check=False
    )
    assert "unexpected commit digest" in lying.stderr and "failed precondition" in lying.stderr
    active = containerd.go_ctr("content", "active").stdout
    assert f"ref-{name}" not in active


def test_leases(containerd: Daemon, name: str) -> None:
    created = containerd.go_ctr("leases", "create", "--id", name, "color=red").stdout
    assert created.strip() == name
    row = next(row for row in ctr.rows(containerd.go_ctr("leases", "ls").stdout) if row[0] == name)
    assert "color=red" in row[-1] and "containerd.io/gc.expire=" in row[-1]
    again = containerd.go_ctr("leases", "create", "--id", name, check=False)
    assert "already exists" in again.stderr
    containerd.go_ctr("leases", "rm", "--sync", name)
    assert name not in containerd.go_ctr("leases", "ls", "-q").stdout.split()
    missing = containerd.go_ctr("leases", "rm", name, check=False)
    assert "not found" in missing.stderr + missing.stdout


def test_namespaces(containerd: Daemon, name: str) -> None:
    containerd.go_ctr("namespaces", "create", name, "color=red")
    row = next(row for row in ctr.rows(containerd.go_ctr("namespaces", "ls").stdout) if row[0] == name)
    assert row == [name, "color=red"]
    again = containerd.go_ctr("namespaces", "create", name, check=False)
    assert f'namespace "{name}": already exists' in again.stderr
    containerd.go_ctr("namespaces", "label", name, "size=big")
    assert "size=big" in containerd.go_ctr("namespaces", "ls").stdout
    containerd.go_ctr("--namespace", name, "images", "tag", "x", "y", check=False)
    containerd.go_ctr("namespaces", "rm", name)
    assert name not in containerd.go_ctr("namespaces", "ls", "-q").stdout.split()


def test_namespaces_isolate(containerd: Daemon, name: str) -> None:
    images_there = containerd.go_ctr("--namespace", name, "images", "ls", "-q").stdout
    assert images_there == ""
    digest = ingest(containerd, name, f"seen only in {name}", "--namespace", name)
    assert containerd.go_ctr("--namespace", name, "content", "ls", "-q").stdout.split() == [digest]
    assert digest not in containerd.go_ctr("content", "ls", "-q").stdout
    full = containerd.go_ctr("namespaces", "rm", name, check=False)
    assert "must be empty" in full.stderr + full.stdout
    containerd.go_ctr("--namespace", name, "content", "rm", digest)
    eventually(lambda: containerd.go_ctr("namespaces", "rm", name, check=False).returncode == 0)


def test_events(containerd: Daemon, name: str) -> None:
    with Watcher(containerd) as watcher:
        containerd.go_ctr("run", "--rm", images.BUSYBOX, name, "sh", "-c", "exit 7", check=False)
        for topic in ("/containers/delete", "/snapshot/remove", "/tasks/delete"):
            events = watcher.until(topic, of=name)
    ours = [event for event in events if name in event.fields.values()]
    assert {event.namespace for event in ours} == {containerd.namespace}
    # Shims report beside the daemon: what they say has an order of its own.
    topics = [event.topic for event in ours]
    assert [topic for topic in topics if topic.startswith("/containers")] == [
        "/containers/create",
        "/containers/delete",
    ]
    assert [topic for topic in topics if topic.startswith("/tasks")] == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ]
    ended = next(event.fields for event in ours if event.topic == "/tasks/exit")
    assert (ended["container_id"], ended["id"], ended["exit_status"]) == (name, name, 7)


def test_events_are_filtered(containerd: Daemon, name: str) -> None:
    """The filter dockerd uses, with its pipe-quoted regular expression."""
    only = f"namespace=={containerd.namespace},topic~=|^/tasks/|"
    watcher = containerd.popen("events", only, stdout=subprocess.PIPE)
    text = ""
    try:
        assert watcher.stdout is not None
        stream = watcher.stdout.fileno()
        while "/tasks/delete" not in text:
            containerd.go_ctr("run", "--rm", images.BUSYBOX, name, "true")
            while select.select([stream], [], [], 0.2)[0]:
                text += os.read(stream, 65536).decode()
    finally:
        os.kill(host.innermost(watcher.pid), 9)
        watcher.communicate()
    topics = [line.split(" {")[0].split(" ")[-1] for line in text.splitlines()]
    assert topics and all(topic.startswith("/tasks/") for topic in topics)
