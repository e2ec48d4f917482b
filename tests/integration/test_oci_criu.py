"""checkpoint and restore, with a stand-in for criu that records what it is told. Against criu itself: unverified."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from support import criu
from support.bundles import Bundle
from support.process import eventually


@pytest.fixture
def running(box: Bundle) -> Bundle:
    """A running container, and a ``criu`` in the bundle's folder."""
    criu.install(box.folder)
    box.config["mounts"].append(
        {"destination": "/bound", "type": "bind", "source": "source", "options": ["rbind"]}
    )
    (box.folder / "source").mkdir()
    box.runtime = [*box.runtime, "--criu", box.folder / "criu"]
    box.create("while :; do sleep 1000; done")
    box.do("start", "c")
    return box


def words(box: Bundle) -> list[str]:
    found: list[str] = criu.calls(box.folder)[-1]["words"]
    return found


def test_checkpoint_tells_criu_everything(running: Bundle) -> None:
    pid = running.inspect()["pid"]
    running.do(
        "checkpoint",
        "--image-path",
        "images",
        "--work-path",
        "work",
        "--tcp-established",
        "--ext-unix-sk",
        "--shell-job",
        "--file-locks",
        "--auto-dedup",
        "--empty-ns",
        "network",
        "--manage-cgroups-mode",
        "full",
        "c",
    )
    call = criu.calls(running.folder)[-1]
    said = call["words"]
    assert call["verb"] == "dump"
    assert criu.value(said, "--tree") == str(pid)
    assert criu.value(said, "--root") == str(running.root)
    assert criu.value(said, "--images-dir") == str(running.folder / "images")
    assert criu.value(said, "--work-dir") == str(running.folder / "work")
    assert criu.value(said, "--freeze-cgroup") == str(running.cgroup("freezer"))
    assert criu.value(said, "--empty-ns") == "net"
    for flag in (
        "tcp-established",
        "ext-unix-sk",
        "shell-job",
        "file-locks",
        "auto-dedup",
        "manage-cgroups=full",
    ):
        assert f"--{flag}" in said
    external = criu.values(said, "--external")
    assert "mnt[/bound]:/bound" in external
    assert "mnt[/proc/keys]:/dev/null" in external
    assert not any("/sys/firmware" in word for word in external)
    assert (running.folder / "images/descriptors.json").exists()
    # Dumped and not to be left running: it is gone.
    assert running.call("state", "c").returncode == 1


def test_left_running_and_pre_dumped(running: Bundle) -> None:
    running.do("checkpoint", "--pre-dump", "--image-path", "images/first", "c")
    assert criu.calls(running.folder)[-1]["verb"] == "pre-dump"
    running.do(
        "checkpoint", "--leave-running", "--image-path", "images/second", "--parent-path", "../first", "c"
    )
    assert criu.value(words(running), "--prev-images-dir") == "../first"
    assert {"--track-mem", "--leave-running"} <= set(words(running))
    assert running.inspect()["status"] == "running"
    for wrong in ("/abs", "missing"):
        done = running.call("checkpoint", "--image-path", "images/third", "--parent-path", wrong, "c")
        assert done.returncode == 1


def test_page_server_and_status_descriptor(running: Bundle) -> None:
    read, write = os.pipe()
    running.do(
        "checkpoint",
        "--leave-running",
        "--lazy-pages",
        "--page-server",
        "10.0.0.1:27",
        "--status-fd",
        str(write),
        "c",
        pass_fds=[write],
    )
    os.close(write)
    os.close(read)
    said = words(running)
    assert criu.value(said, "--address") == "10.0.0.1"
    assert criu.value(said, "--port") == "27"
    assert criu.calls(running.folder)[-1]["fds"][criu.value(said, "--status-fd")].startswith("pipe:")


def test_restore_brings_it_back(running: Bundle) -> None:
    images = running.folder / "images"
    log = running.folder / "restored.log"
    running.do("checkpoint", "--image-path", images, "c")
    # Init's streams were to files; as from a shim they are pipes.
    (images / "descriptors.json").write_text('["/dev/null", "pipe:[4711]", "/dev/null"]')
    with log.open("w") as output:
        done = running.call(
            "restore",
            "--detach",
            "--image-path",
            images,
            "--pid-file",
            running.folder / "pid",
            "--tcp-established",
            "--lsm-profile",
            "selinux:x",
            "c",
            stdout=output,
        )
    assert done.returncode == 0, done.stderr
    call = criu.calls(running.folder)[-1]
    said = call["words"]
    assert (call["verb"], call["mounted"]) == ("restore", True)
    assert {"--restore-detached", "--restore-sibling", "--tcp-established"} <= set(said)
    assert f"mnt[/bound]:{running.folder}/source" in criu.values(said, "--external")
    assert "mnt[/dev/null]:/dev/null" in criu.values(said, "--external")
    assert f"freezer:/{running.name}/c" in criu.values(said, "--cgroup-root")
    assert criu.value(said, "--lsm-profile") == "selinux:x"
    assert call["fds"]["3"] == str(log)
    state = running.inspect()
    assert state["status"] == "running"
    assert (running.folder / "pid").read_text() == str(state["pid"])
    eventually(lambda: log.read_text() == "restored\n")
    running.do("pause", "c")
    running.do("resume", "c")
    assert str(state["pid"]) in running.do("ps", "--format", "json", "c")
    running.do("kill", "c", "KILL")
    eventually(lambda: running.inspect()["status"] == "stopped")
    running.do("delete", "c")


def test_restore_in_the_foreground_with_hooks(running: Bundle) -> None:
    running.do("checkpoint", "--image-path", "images", "c")
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat >{running.folder}/$0", "hook"]}
    running.config["hooks"] = {
        "createRuntime": [hook],
        "poststart": [{**hook, "args": [*hook["args"][:-1], "post"]}],
    }
    running.save()
    process = subprocess.Popen(
        [*running.runtime, "--root", running.state, "restore", "--image-path", "images", "c"],
        cwd=running.folder,
        stdin=subprocess.DEVNULL,
    )
    eventually((running.folder / "post").exists)
    assert "--leave-stopped" in words(running)
    running.do("kill", "c", "TERM")
    assert process.wait(60) == 128 + 15
    assert '"creating"' in (running.folder / "hook").read_text()
    assert running.call("state", "c").returncode == 1


def test_failures_name_the_log_and_leave_nothing(running: Bundle) -> None:
    (running.folder / "fail").touch()
    done = running.call("checkpoint", "--image-path", "images", "--work-path", "work", "c")
    assert done.returncode == 1
    assert "criu failed: exit status 1" in done.stderr
    assert "as told by the test" in done.stderr
    assert f"log file: {running.folder}/work/dump.log" in done.stderr
    assert running.inspect()["status"] == "running"
    running.do("delete", "--force", "c")
    assert running.call("restore", "--image-path", "nowhere", "c").returncode == 1
    assert running.call("restore", "--image-path", "images", "c").returncode == 1
    assert not running.cgroup("freezer").exists()
    assert not (running.state / "c").exists()
    shutil.rmtree(running.folder / "images")


def test_what_cannot_be_checkpointed(box: Bundle) -> None:
    box.create("sleep 1000")
    done = box.call("checkpoint", "c")
    assert "Container cannot be checkpointed in created state" in done.stderr
    box.do("start", "c")
    done = box.call("--criu", "/nowhere/criu", "checkpoint", "c")
    assert (
        'exec: \\"/nowhere/criu\\": executable file not found' in done.stderr
        or "/nowhere/criu" in done.stderr
    )
    assert box.call("checkpoint", "--manage-cgroups-mode", "soon", "c").returncode == 1
    assert box.call("checkpoint", "--empty-ns", "pid", "c").returncode == 1
