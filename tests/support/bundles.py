"""Bundles for runtimes: a busybox root, a config.json to edit, and a command line to run it with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import goparts, images
from support.folders import short_folder
from support.leaks import Watch

Config = dict[str, Any]
HARD = ["nosuid", "noexec", "nodev"]
MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
BASE_PYTHON = os.path.realpath(sys.executable)


def configuration(*arguments: str) -> Config:
    """A config.json that runs ``arguments`` as root with few capabilities and every namespace but user private."""
    mounts = [
        ("/proc", "proc", "proc", []),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/shm", "tmpfs", "shm", [*HARD, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", HARD),
        ("/sys", "sysfs", "sysfs", [*HARD, "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*HARD, "relatime", "ro"]),
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(arguments) or ["true"],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                key: ["CAP_KILL", "CAP_CHOWN"] for key in ("bounding", "effective", "permitted")
            },
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": target, "type": kind, "source": source, "options": options}
            for target, kind, source, options in mounts
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
        },
    }


class Bundle:
    """A folder with rootfs/ and a config, and a runtime to run it: verbs return the finished command."""

    def __init__(self, folder: Path, runtime: list[str | Path], name: str) -> None:
        self.folder = folder
        self.runtime = runtime
        self.name = name
        self.root = folder / "rootfs"
        self.state = folder / "state"
        self.config = configuration()
        self.config["linux"]["cgroupsPath"] = f"/{name}/c"

    def save(self) -> None:
        (self.folder / "config.json").write_text(json.dumps(self.config))

    def shell(self, script: str) -> None:
        """Make the container run a script."""
        self.config["process"]["args"] = ["sh", "-c", script]

    def call(
        self, *words: str | Path, text: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """``runtime --root STATE words...``; standard input is empty, or ``text``."""
        self.save()
        command = [*self.runtime, "--root", self.state, *words]
        if text is None:
            options.setdefault("stdin", subprocess.DEVNULL)
        else:
            options["input"] = text
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.run(command, text=True, cwd=self.folder, timeout=120, check=False, **options)

    def do(self, *words: str | Path, **options: Any) -> str:
        """The same, which must succeed; its output."""
        done = self.call(*words, **options)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return str(done.stdout)

    def detached(self, *words: str | Path) -> None:
        """The same for a verb that leaves a process behind: it must not hold our pipes."""
        log = self.folder / "detached.log"
        with log.open("w+") as output:
            done = self.call(*words, stdout=output, stderr=output)
        assert done.returncode == 0, log.read_text()

    def run(self, script: str = "") -> subprocess.CompletedProcess[str]:
        """``runc run``, of a script if one is given."""
        if script:
            self.shell(script)
        return self.call("run", "c")

    def create(self, script: str = "") -> int:
        """``runc create`` with standard streams to nowhere; the pid of init."""
        if script:
            self.shell(script)
        self.detached("create", "c")
        pid: int = self.inspect()["pid"]
        return pid

    def inspect(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.do("state", "c"))
        return state

    def cgroup(self, controller: str) -> Path:
        return Path("/sys/fs/cgroup") / controller / self.name / "c"


@contextmanager
def bundle(runtime: list[str | Path]) -> Iterator[Bundle]:
    """A bundle; the container "c" is deleted and everything it left is searched for at the end."""
    name = f"o{uuid.uuid4().hex[:8]}"
    with short_folder() as folder:
        images.busybox_rootfs(folder)
        made = Bundle(folder, runtime, name)
        watch = Watch([folder], [name])
        try:
            yield made
        finally:
            made.call("delete", "--force", "c")
        watch.check(removing_cgroups=runtime[0] == goparts.path("runc"))
