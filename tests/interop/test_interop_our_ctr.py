"""Our ctr on Debian's containerd and on ours: each command, its output, its exit status, its errors."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import Client
from longshore.client.oci import MANIFEST
from support import ctr, images
from support.daemon import LONGSHORE, Longshore
from support.images import BUSYBOX
from support.process import eventually
from support.realdaemon import RealContainerd

Daemon: TypeAlias = RealContainerd | Longshore
DEADLINE = 60  # seconds


class Ours:
    """Our ctr on a daemon of either kind."""

    def __init__(self, daemon: Daemon) -> None:
        self.flags = ["--address", str(daemon.address), "--namespace", daemon.namespace]

    def command(self, *words: str | Path) -> list[str]:
        return [str(LONGSHORE), "ctr", *self.flags, *map(str, words)]

    def __call__(
        self, *words: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "timeout": 120} | options
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        done = subprocess.run(self.command(*words), check=False, **options)
        return ctr.checked(done) if check else done

    def rows(self, *words: str) -> list[list[str]]:
        return ctr.rows(self(*words).stdout)

    def json(self, *words: str) -> Any:
        return json.loads(self(*words).stdout)


@pytest.fixture(scope="module")
def client(containerd: Daemon) -> Iterator[Client]:
    with Client(str(containerd.address), containerd.namespace) as client:
        yield client


@pytest.fixture
def ours(containerd: Daemon, client: Client) -> Iterator[Ours]:
    yield Ours(containerd)
    assert client.tasks.list() == []
    assert client.containers.list() == []


@contextmanager
def running(
    ours: Ours, name: str, *flags: str, command: tuple[str, ...] = ("sleep", "1000")
) -> Iterator[None]:
    ours("run", "-d", *flags, BUSYBOX, name, *command)
    try:
        yield
    finally:
        ours("tasks", "rm", "-f", name, check=False)
        ours("containers", "rm", name)


def test_run(ours: Ours, name: str) -> None:
    done = ours("run", "--rm", BUSYBOX, name, "sh", "-c", "echo out; echo err >&2; exit 4", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, "out\n", "err\n")


def test_run_passes_options_on_to_the_command(ours: Ours, name: str) -> None:
    assert ours("run", "--rm", BUSYBOX, name, "echo", "--rm", "-d").stdout == "--rm -d\n"


def test_run_with_input(ours: Ours, name: str) -> None:
    assert ours("run", "--rm", BUSYBOX, name, "tr", "a-z", "A-Z", input="hello\n").stdout == "HELLO\n"


def test_run_with_a_file_as_input_and_output(ours: Ours, name: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"line\n" * 100_000)
    with open(tmp_path / "in") as source, open(tmp_path / "out", "w") as target:
        command = ours.command("run", "--rm", BUSYBOX, name, "cat")
        subprocess.run(command, stdin=source, stdout=target, check=True, timeout=60)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


def test_run_into_a_closed_pipe_ends(ours: Ours, name: str) -> None:
    command = ours.command("run", "--rm", BUSYBOX, name, "seq", "100000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(DEADLINE) == 0


FLAGS = [
    (("--env", "A=b"), "echo $A", "b"),
    (("--cwd", "/tmp"), "pwd", "/tmp"),
    (("--hostname", "box"), "hostname", "box"),
    (("--user", "nobody"), "id -u", "65534"),
    (("--user", "7:8"), "id -u; id -g", "7\n8"),
    (("--read-only",), "touch /x 2>&1 | grep -o 'Read-only'", "Read-only"),
    (("--mount", "type=tmpfs,src=t,dst=/mnt,options=ro"), "grep -c ' /mnt tmpfs ro' /proc/mounts", "1"),
    (("--cap-drop", "ALL"), "grep CapBnd /proc/self/status | tr -d '\t'", "CapBnd:0000000000000000"),
    (("--privileged",), "grep -c ' /sys sysfs rw' /proc/mounts", "1"),
    (("--rlimit-nofile", "77"), "ulimit -n", "77"),
    (("--memory-limit", "67108864", "--cpus", "0.5"), "echo ok", "ok"),
    (("--device", "/dev/fuse"), "test -c /dev/fuse && echo yes", "yes"),
    (
        ("--seccomp",),
        "grep Seccomp: /proc/self/status | tr -d '\t'; unshare -U true 2>&1 | tail -c 24",
        "Seccomp:2\nOperation not permitted",
    ),
    (
        ("--seccomp", "--cap-add", "ALL"),
        "unshare -u true && mount -t tmpfs t /tmp && echo mounted",
        "mounted",
    ),
    (("--privileged",), "test -c /dev/fuse && echo yes || ls /dev | grep -c .", None),
    (("--rootfs-propagation", "rslave"), "grep -c ' / .* master:' /proc/self/mountinfo || true", None),
    (("--net-host",), "readlink /proc/self/ns/net", None),
    (("--with-ns", "uts:/proc/self/ns/uts"), "readlink /proc/self/ns/uts", None),
]


@pytest.mark.parametrize(("flags", "script", "expected"), FLAGS, ids=[case[0][0] for case in FLAGS])
def test_flags_of_run(
    ours: Ours, name: str, flags: tuple[str, ...], script: str, expected: str | None
) -> None:
    if "/dev/fuse" in flags and not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse on this host")
    said = ours("run", "--rm", *flags, BUSYBOX, name, "sh", "-c", script).stdout.strip()
    if expected is None:
        assert re.fullmatch(r"\w+:\[\d+\]|yes|\d+", said)
    else:
        assert said == expected


def test_run_on_a_folder_and_env_file(ours: Ours, name: str, tmp_path: Path) -> None:
    root = images.busybox_rootfs(tmp_path)
    (tmp_path / "env").write_text("A=1\n# no\nB=2\n")
    done = ours(
        *("run", "--rm", "--rootfs", "--env-file", tmp_path / "env", root, name, "/bin/sh", "-c", "echo $A$B")
    )
    assert done.stdout == "12\n"


def test_run_with_a_specification(ours: Ours, name: str, tmp_path: Path) -> None:
    ours("containers", "create", BUSYBOX, name, "echo", "from config")
    spec = ours.json("containers", "info", "--spec", name)
    ours("containers", "rm", name)
    root = images.busybox_rootfs(tmp_path)
    spec["root"]["path"] = str(root)
    (tmp_path / "config.json").write_text(json.dumps(spec))
    assert ours("run", "--rm", "--config", tmp_path / "config.json", name).stdout == "from config\n"


def test_the_specification_without_a_run(ours: Ours, name: str) -> None:
    spec = ours.json("run", "--dump-config", "--cwd", "/tmp", BUSYBOX, name, "true")
    assert spec["process"]["cwd"] == "/tmp" and spec["process"]["args"] == ["true"]
    assert name not in ours("snapshots", "ls").stdout


def test_logs_and_pid_file(ours: Ours, name: str, tmp_path: Path) -> None:
    log, pid = tmp_path / "log", tmp_path / "pid"
    with running(
        ours,
        name,
        "--log-uri",
        f"file://{log}",
        "--pid-file",
        str(pid),
        command=("sh", "-c", "echo x; sleep 1000"),
    ):
        row = next(row for row in ours.rows("tasks", "ls") if row[0] == name)
        assert row[1] == pid.read_text()
        eventually(lambda: log.read_text() == "x\n")


def test_tasks(ours: Ours, name: str) -> None:
    with running(ours, name):
        assert [row[2] for row in ours.rows("tasks", "ls")] == ["RUNNING"]
        assert ours("tasks", "ls", "-q").stdout == f"{name}\n"
        assert ours.json("tasks", "ls", "--format", "json")[0]["status"] == "RUNNING"
        assert len(ours.rows("tasks", "ps", name)) == 1
        assert "pids.current" in ours("tasks", "metrics", name).stdout
        assert ours.json("tasks", "metrics", name, "--format", "json")
        ours("tasks", "pause", name)
        assert ours.rows("tasks", "ls")[0][2] == "PAUSED"
        ours("tasks", "resume", name)
        refused = ours("tasks", "rm", name, check=False)
        assert refused.returncode == 1 and "cannot delete a running process" in refused.stderr
        refused = ours("containers", "rm", name, check=False)
        assert refused.returncode == 1 and "non stopped" in refused.stderr
        ours("tasks", "kill", "-s", "SIGKILL", name)


def test_exec(ours: Ours, name: str) -> None:
    with running(ours, name, "--env", "A=1"):
        done = ours("tasks", "exec", name, "sh", "-c", "echo $A; exit 5", check=False)
        assert (done.returncode, done.stdout) == (5, "1\n")
        assert ours("tasks", "exec", "--cwd", "/tmp", name, "pwd").stdout == "/tmp\n"
        assert ours("tasks", "exec", "--user", "nobody", name, "id", "-u").stdout == "65534\n"
        assert ours("tasks", "exec", name, "cat", input="in\n").stdout == "in\n"
        ours("tasks", "exec", "-d", "--exec-id", "e1", name, "sleep", "1000")
        assert 'exec_id:"e1"' in ours("tasks", "ps", name).stdout
        ours("tasks", "kill", "--exec-id", "e1", "-s", "9", name)
        ours("tasks", "rm", "-f", "--exec-id", "e1", name)
        missing = ours("tasks", "exec", name, "no-such-program", check=False)
        assert missing.returncode == 1 and "no-such-program" in missing.stderr


def test_create_start_attach(ours: Ours, name: str) -> None:
    ours("containers", "create", "--label", "a=b", BUSYBOX, name, "sh", "-c", "read x; echo got $x; exit 6")
    assert ours.rows("containers", "ls", "labels.a==b")[0][0] == name
    ours("tasks", "start", "-d", name)
    done = ours("tasks", "attach", name, input="this\n", check=False)
    assert (done.returncode, done.stdout) == (6, "got this\n")
    ours("containers", "rm", name)


def test_signals_are_forwarded(ours: Ours, name: str) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    command = ours.command("run", "--rm", BUSYBOX, name, "sh", "-c", script)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"caught\n"
        assert process.wait(DEADLINE) == 9


def read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    deadline = time.monotonic() + DEADLINE
    while text not in seen and time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                seen += os.read(fd, 4096)
            except OSError:
                break
    assert text in seen, seen
    return seen


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_terminal(ours: Ours, name: str, verb: str) -> None:
    """Size, ^C, and the exit status; our own terminal is as before.

    The size comes with a request of its own once the process runs, when it may have asked for it already.
    """
    sized = "until [ \"$(stty size)\" = '41 93' ]; do sleep 0.05; done"
    script = f"trap 'echo interrupted' INT; {sized}; stty size; read x; read x; exit 8"
    import termios

    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (41, 93))
    before = termios.tcgetattr(slave)
    with running(ours, name) if verb == "exec" else contextmanager(lambda: iter([None]))():
        words = ("tasks", "exec", "-t", name) if verb == "exec" else ("run", "--rm", "-t", BUSYBOX, name)
        with subprocess.Popen(
            ours.command(*words, "sh", "-c", script), stdin=slave, stdout=slave, stderr=slave
        ) as process:
            read_until(master, b"41 93")
            os.write(master, b"\x03")
            read_until(master, b"interrupted")
            os.write(master, b"x\ny\n")
            assert process.wait(DEADLINE) == 8
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_images(ours: Ours, tmp_path: Path) -> None:
    archive = images.busybox_archive(tmp_path, "example.org/box:1")
    assert "unpacking example.org/box:1" in ours("images", "import", archive).stdout
    row = next(row for row in ours.rows("images", "ls") if row[0] == "example.org/box:1")
    assert row[1].endswith("manifest.v1+json") and row[2].startswith("sha256:")
    assert ours.json("images", "ls", "--format", "json", "name==example.org/box:1")[0]["size"] > 500_000
    assert ours.rows("images", "check", "name==example.org/box:1")[0][3:5] == ["complete", "(2/2)"]
    assert ours("images", "label", "example.org/box:1", "color=red").stdout == "color=red\n"
    assert ours("images", "label", "-r", "example.org/box:1", "shape=round").stdout == "shape=round\n"
    ours("images", "tag", "example.org/box:1", "example.org/box:2")
    refused = ours("images", "tag", "example.org/box:1", "example.org/box:2", check=False)
    assert refused.returncode == 1 and "already exists" in refused.stderr
    ours("images", "export", tmp_path / "out.tar", "example.org/box:1", "example.org/box:2")
    assert ours.json("images", "inspect", "--content", "example.org/box:1")["Config"]["os"] == "linux"
    ours("images", "rm", "--sync", "example.org/box:1", "example.org/box:2")
    said = ours("images", "import", "--no-unpack", tmp_path / "out.tar").stdout
    assert said.count("saved example.org/box") == 2
    ours("images", "rm", "--sync", "example.org/box:1", "example.org/box:2")
    assert "example.org" not in ours("images", "ls", "-q").stdout


def test_a_damaged_image_hides_no_other(ours: Ours, client: Client) -> None:
    for number, data in enumerate((b"garbage", b'{"manifests": 5}', b'{"config": {"digest": "x"}}')):
        digest = client.content.write(f"damaged-{number}", data, labels={"containerd.io/gc.root": "now"})
        target = Descriptor(media_type=MANIFEST, digest=digest, size=len(data))
        client.images.create(f"damaged:{number}", target)
    listed = {row[0] for row in ours.rows("images", "ls")}
    assert {BUSYBOX, "damaged:0", "damaged:1", "damaged:2"} <= listed
    checked = {row[0]: row[3] for row in ours.rows("images", "check")}
    assert checked[BUSYBOX] == "complete" and checked["damaged:0"] == "incomplete"
    for number in range(3):
        image = client.images.get(f"damaged:{number}")
        image.delete()
        client.content.delete(image.record.target.digest)


def test_flags_of_import_and_export(ours: Ours, tmp_path: Path) -> None:
    archive = images.busybox_archive(tmp_path, "example.org/box:1")
    said = ours(
        "images", "import", "--no-unpack", "--digests", "--base-name", "example.org/b", archive
    ).stdout
    assert re.search(r"^saved example.org/b@sha256:\w+ ", said, re.MULTILINE) and "example.org/box:1" in said
    ours(
        "images", "export", "--skip-manifest-json", tmp_path / "oci.tar", "example.org/b" + digest_name(ours)
    )
    with tarfile.open(tmp_path / "oci.tar") as tar:
        assert "index.json" in tar.getnames() and "manifest.json" not in tar.getnames()
    said = ours(
        "images", "import", "--digests", "--skip-digest-for-named", "--discard-unpacked-layers", archive
    ).stdout
    assert "@sha256" not in said.replace("(sha256", "")
    refused = ours(
        "images",
        "export",
        "--platform",
        "linux/s390x",
        tmp_path / "no.tar",
        "example.org/none:1",
        check=False,
    )
    assert refused.returncode == 1 and not (tmp_path / "no.tar").exists()
    bad = ours("images", "tag", "example.org/box:1", "Not A Name", check=False)
    assert bad.returncode == 1 and "Traceback" not in bad.stderr
    ours("images", "tag", "--skip-reference-check", "example.org/box:1", "Not A Name")
    names = [name for name in ours("images", "ls", "-q").stdout.splitlines() if name != BUSYBOX]
    ours("images", "rm", "--sync", *names)


def digest_name(ours: Ours) -> str:
    """The part behind the base name of the image recorded by its digest."""
    name = next(
        name for name in ours("images", "ls", "-q").stdout.splitlines() if name.startswith("example.org/b@")
    )
    return name.removeprefix("example.org/b")


def test_pruning(ours: Ours, name: str, tmp_path: Path) -> None:
    """Images that containers use stay; and what is unpacked runs without its layers' blobs."""
    ours("images", "import", images.busybox_archive(tmp_path, "example.org/used:1"))
    ours("images", "tag", "example.org/used:1", "example.org/unused:1")
    ours("containers", "create", "example.org/used:1", name, "true")
    assert ours("images", "prune", check=False).returncode == 1
    pruned = ours("images", "prune", "--all").stdout.split()
    assert "example.org/unused:1" in pruned and "example.org/used:1" not in pruned
    layers = len(ours.rows("content", "ls"))
    assert "1 layer" in ours("content", "prune", "references", "--dry").stdout
    assert len(ours.rows("content", "ls")) == layers
    ours("content", "prune", "references")
    assert len(ours.rows("content", "ls")) == layers - 1
    assert ours("run", "--rm", "example.org/used:1", f"{name}-r", "echo", "runs").stdout == "runs\n"
    ours("containers", "rm", name)
    ours("images", "rm", "--sync", "example.org/used:1")
    if BUSYBOX in pruned:
        ours("images", "import", images.busybox_archive(tmp_path))


def test_mounted_images(ours: Ours, tmp_path: Path) -> None:
    folder = tmp_path / "mnt"
    missing = ours("images", "mount", BUSYBOX, folder, check=False)
    assert missing.returncode == 1 and "no directory" in missing.stderr
    folder.mkdir()
    for flags in ((), ("--rw",)):
        ours("images", "mount", *flags, BUSYBOX, folder)
        try:
            assert (folder / "bin" / "busybox").exists()
            with nullcontext() if flags else pytest.raises(OSError):
                (folder / "new").write_text("x")
        finally:
            ours("images", "unmount", "--rm", folder)
        assert list(folder.iterdir()) == []
    assert ours("leases", "ls", "-q").stdout == ""


def test_a_converted_image_runs(ours: Ours, name: str) -> None:
    ours("images", "convert", "--uncompress", "--oci", BUSYBOX, "example.org/plain:1")
    manifest = ours.json("images", "inspect", "--content", "example.org/plain:1")["Manifest"]
    assert [layer["mediaType"] for layer in manifest["layers"]] == ["application/vnd.oci.image.layer.v1.tar"]
    assert ours("run", "--rm", "example.org/plain:1", name, "echo", "out").stdout == "out\n"
    ours("images", "rm", "--sync", "example.org/plain:1")


def test_editing_a_blob(ours: Ours) -> None:
    ours("content", "ingest", "edited", input='{"a": 1}')
    digest = next(row[0] for row in ours.rows("content", "ls") if row[1] == "8B")
    new = ours("content", "edit", "--validate", "json", "--editor", "sed -i s/1/2/", digest).stdout.strip()
    assert ours("content", "get", new).stdout == '{"a": 2}'
    for editor, complaint in (
        ("sed -i s/}//", "no JSON"),
        ("false", "ended with 1"),
        ("no-such-editor", "no editor"),
    ):
        bad = ours("content", "edit", "--validate", "json", "--editor", editor, digest, check=False)
        assert bad.returncode == 1 and complaint in bad.stderr
    ours("leases", "rm", "--sync", *ours("leases", "ls", "-q").stdout.split())


def test_import_from_a_pipe(ours: Ours, tmp_path: Path) -> None:
    archive = images.busybox_archive(tmp_path, "example.org/piped:1")
    cat = subprocess.Popen(["cat", archive], stdout=subprocess.PIPE)
    subprocess.run(
        ours.command("images", "import", "-"), stdin=cat.stdout, check=True, stdout=subprocess.DEVNULL
    )
    assert cat.stdout is not None
    cat.stdout.close()
    assert cat.wait() == 0
    ours("images", "rm", "--sync", "example.org/piped:1")


def test_content(ours: Ours) -> None:
    ours("content", "ingest", "some-ref", input="content of ours")
    row = next(row for row in ours.rows("content", "ls") if row[1] == "15B")
    assert ours("content", "get", row[0]).stdout == "content of ours"
    ours("content", "label", row[0], "a=b")
    assert ours("content", "ls", "-q", "labels.a==b").stdout == f"{row[0]}\n"
    assert ours.rows("content", "active") == []
    wrong = ours("content", "ingest", "--expected-size", "3", "other-ref", input="longer", check=False)
    assert wrong.returncode == 1
    ours("content", "rm", row[0])
    missing = ours("content", "get", row[0], check=False)
    assert missing.returncode == 1 and "not found" in missing.stderr


def test_snapshots(ours: Ours) -> None:
    layer = ours.rows("snapshots", "ls")[0][0]
    said = ours("snapshots", "prepare", "-t", "/mnt", "s1", layer).stdout
    assert said.startswith("mount -t overlay overlay /mnt -o ")
    assert ours("snapshots", "mounts", "/mnt", "s1").stdout == said
    assert ours.json("snapshots", "info", "s1")["Kind"] == "Active"
    assert ours("snapshots", "tree").stdout.splitlines()[-1].endswith("\\_ s1")
    assert ours.rows("snapshots", "usage", "-b", "s1")[0][0] == "s1"
    ours("snapshots", "commit", "s2", "s1")
    assert ours.json("snapshots", "view", "--mounts", "s3", "s2")[0]["Type"] == "overlay"
    refused = ours("snapshots", "rm", "s2", check=False)
    assert refused.returncode == 1 and "child" in refused.stderr
    ours("snapshots", "label", "s3", "a=b")
    assert ours.json("snapshots", "ls", "--format", "json", "labels.a==b")[0]["parent"] == "s2"
    ours("snapshots", "rm", "s3", "s2")


def test_leases(ours: Ours) -> None:
    assert ours("leases", "create", "--id", "l1", "-x", "1h", "a=b").stdout == "l1\n"
    row = next(row for row in ours.rows("leases", "ls") if row[0] == "l1")
    assert "a=b,containerd.io/gc.expire=" in row[2]
    assert ours.rows("leases", "resources", "l1") == []
    assert ours("leases", "rm", "--sync", "l1").stdout == "l1\n"
    assert "l1" not in ours("leases", "ls", "-q").stdout


def test_namespaces(ours: Ours, containerd: Daemon) -> None:
    name = f"{containerd.namespace}-n"
    ours("namespaces", "create", name, "a=b")
    ours("ns", "label", name, "c=d")
    assert [name, "a=b,c=d"] in ours.rows("ns", "ls")
    ours("ns", "rm", name)
    assert name not in ours("ns", "ls", "-q").stdout


def test_events(ours: Ours, name: str) -> None:
    command = ours.command("events", "--count", "2", f'topic~=|^/containers/|,event.id=="{name}"')
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        # The original confirms no subscription; so make events until it ends.
        deadline = time.monotonic() + DEADLINE
        while process.poll() is None and time.monotonic() < deadline:
            ours("containers", "create", BUSYBOX, name, "true")
            ours("containers", "rm", name)
        said = process.communicate(timeout=DEADLINE)[0]
    assert re.search(rf'\+0000 UTC \S+ /containers/(create|delete) {{"id":"{name}"', said), said


def test_the_rest(ours: Ours) -> None:
    assert ours("version").stdout.startswith("Client:")
    assert ["io.containerd.snapshotter.v1", "overlayfs"] in [row[:2] for row in ours.rows("plugins", "ls")]
    assert "io.containerd.content.v1.content" in ours("plugins", "ls", "-q").stdout.split()
    assert "Exports:" in ours("plugins", "ls", "-d").stdout


ERRORS = [
    (("run", "--rm", "example.org/none:1", "x"), "not found"),
    (("run", "--rm", BUSYBOX, "no..id"), "invalid"),
    (("tasks", "kill", "nobody"), "not found"),
    (("containers", "info", "nobody"), "not found"),
    (("images", "rm", "example.org/none:1"), "not found"),
    (("images", "import", "/no/such/file"), "no such file"),
    (("snapshots", "--snapshotter", "nope", "ls"), "not loaded"),
    (("content", "get", "sha256:12"), ""),
    (("run", "-d", "--rm", BUSYBOX, "x"), "exclude each other"),
    (("run", "-t", "--rm", BUSYBOX, "x"), "no terminal"),
    (("run", "--cap-add", "CAP_NOPE", BUSYBOX, "x"), "CAP_NOPE"),
    (("run", "--rootfs", "/no/such/folder", "x", "true"), "no directory"),
    (("containers", "ls", "id=="), ""),
    (("tasks", "kill", "-s", "NOPE", "x"), ""),
    (("run", "--gpus", "1", BUSYBOX, "x"), "not built"),
    (("run", "--device", "/no/device", BUSYBOX, "x"), "/no/device"),
    (("run", "--rootfs-propagation", "up", BUSYBOX, "x"), "propagation"),
    (("run", "--seccomp", "--seccomp-profile", "/etc/passwd", BUSYBOX, "x"), "no json"),
    (("images", "convert", "example.org/none:1", "example.org/x:1"), "not found"),
    (("images", "mount", "example.org/none:1", "/mnt"), "not found"),
    (("images", "usage", "example.org/none:1"), "not found"),
    (("snapshots", "unpack", f"sha256:{'0' * 64}"), "not found"),
    (("content", "fetch-object", "--plain-http", "localhost:1/none:1"), ""),
    (("content", "edit", f"sha256:{'0' * 64}"), "not found"),
    (("content", "push-object", "localhost:1/none:1", f"sha256:{'0' * 64}", "a/b"), "not found"),
    (("plugins", "inspect-runtime", "--runtime", "io.containerd.nope.v9"), ""),
    (("containers", "info", "\udce9"), "is no utf-8"),
    (("containers", "restore", "x", BUSYBOX), "is no checkpoint"),
    (("tasks", "checkpoint", "nobody"), "not found"),
]


@pytest.mark.parametrize(("words", "text"), ERRORS, ids=[ascii(" ".join(case[0][:3])) for case in ERRORS])
def test_errors(ours: Ours, words: tuple[str, ...], text: str) -> None:
    done = ours(*words, check=False)
    assert done.returncode == 1
    assert (done.stderr.startswith("ctr: ") and text in done.stderr.lower()) or text in done.stderr
    assert "Traceback" not in done.stderr


def test_image_from_host(ours: Ours, containerd: Daemon, name: str) -> None:
    """Packed and imported in one go."""
    program = [sys.executable, "-m", "longshore.ctr.hostimage"]
    flags = ["-t", "host/tools", "-a", str(containerd.address), "-n", containerd.namespace]
    subprocess.run([*program, "from-host", "sh", "ls", *flags], check=True, capture_output=True)
    assert "bin" in ours("run", "--rm", "docker.io/host/tools:latest", name, "ls", "/").stdout.split()
    ours("images", "rm", "--sync", "docker.io/host/tools:latest")
