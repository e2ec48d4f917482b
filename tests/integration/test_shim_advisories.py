"""Attacks of published advisories on shims and on what the daemon keeps; see longshore/oci/ADVISORIES.md."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.api.runtime.task.v3 import shim_pb2 as api
from support import images, leaks
from support.daemon import Longshore
from support.shims import Shims, Task, until


@pytest.fixture
def task(short_tmp: Path) -> Iterator[Task]:
    namespace = f"t{uuid.uuid4().hex[:8]}"
    (short_tmp / "image").mkdir()
    with Shims(short_tmp, namespace, images.busybox_rootfs(short_tmp / "image")) as shims:
        yield shims.start("c")
    leaks.Watch([short_tmp], [namespace]).check()


def sockets(pid: int) -> list[str]:
    """The Unix sockets of a process by their names, "" for the nameless."""
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd") if entry.is_symlink()]
    inodes = {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}
    lines = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    return [line[7] if len(line) > 7 else "" for line in lines if line[6] in inodes]


def test_no_container_on_the_host_s_network_reaches_a_shim(task: Task) -> None:
    """CVE-2020-15257: abstract sockets belong to the network namespace, and asked only for the uid 0."""
    linux = task.spec["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
    task.spec["process"]["args"] = ["/bin/sleep", "1000"]
    task.create()
    task.start()
    shim = task.call("Connect", api.ConnectRequest(id="c"), api.ConnectResponse).shim_pid
    named = [name for name in sockets(shim) if name]
    assert named
    assert not [name for name in named if name.startswith("@")]
    path = Path(task.address.removeprefix("unix://"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_another_user_is_hung_up_on(task: Task) -> None:
    """The same, for a shim whose socket was handed to somebody: peers are asked who they are."""
    path = task.address.removeprefix("unix://")
    for above in Path(path).parents:
        if stat.S_IMODE(above.stat().st_mode) & 0o777 == 0o700:
            above.chmod(0o711)
    os.chmod(path, 0o666)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(path)
                status = 0 if client.recv(10) == b"" else 2
        except ConnectionError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    task.create()


def test_nobody_but_root_reads_what_the_daemon_keeps() -> None:
    """CVE-2021-41103, CVE-2021-41091, CVE-2024-25621: set-uid programs of images within everybody's reach."""
    with Longshore() as daemon:
        assert stat.S_IMODE(daemon.root.stat().st_mode) == 0o700
        for folder, _, names in os.walk(daemon.state):
            mode = stat.S_IMODE(os.stat(folder).st_mode)
            assert not mode & 0o066, (folder, oct(mode))
            for name in names:
                path = Path(folder, name)
                if path.is_socket():
                    assert not stat.S_IMODE(path.stat().st_mode) & 0o007, path


def test_an_image_names_no_program_of_the_host(tmp_path: Path) -> None:
    """CVE-2026-53488: labels of an image that tell the restart monitor what to run."""
    labels = {
        "containerd.io/restart.status": "running",
        "containerd.io/restart.loguri": f"binary:///bin/touch?{tmp_path}/sprung",
    }
    archive = images.oci_archive(
        tmp_path / "image.tar", images.BUSYBOX, [images.busybox_layer()], config={"Labels": labels}
    )
    with Longshore() as daemon:
        daemon.go_ctr("images", "import", archive)
        daemon.go_ctr("images", "label", images.BUSYBOX, *(f"{key}={labels[key]}" for key in labels))
        daemon.ctr("run", "--detach", images.BUSYBOX, "c", "/bin/sleep", "1000")
        said = json.loads(daemon.go_ctr("containers", "info", "c").stdout)["Labels"] or {}
        assert not [key for key in said if key.startswith("containerd.io/restart")]
    assert not (tmp_path / "sprung").exists()


def test_bundles_are_closed(tmp_path: Path) -> None:
    """The same, with a container in it."""
    with Longshore() as daemon:
        rootfs = images.busybox_rootfs(tmp_path)
        daemon.go_ctr("run", "--detach", "--rootfs", rootfs, "c", "/bin/sleep", "1000")
        bundle = daemon.state / "io.containerd.runtime.v2.task" / daemon.namespace / "c"
        assert stat.S_IMODE(bundle.stat().st_mode) == 0o700
        until(lambda: (bundle / "config.json").exists())
        assert daemon.go_ctr("task", "kill", "-s", "KILL", "c").returncode == 0
