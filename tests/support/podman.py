"""Debian's podman on a private host, with the OCI runtime of one's choice below it.

There is no daemon: each call makes, or attaches to, a conmon per container.
Storage and state lie on a tmpfs of the private host and go with it.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from support import ctr, goparts, host, images, leaks
from support.dockerd import own_etc
from support.folders import short_folder

PARTS = ("podman", "conmon", "busybox", "iptables", "ip6tables", "cni-bridge")
BUSYBOX = "localhost/busybox:latest"
INFRA = "localhost/infra:latest"  # what holds a pod's namespaces
# Ulimits: podman's own default is more than a root without CAP_SYS_RESOURCE may have.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
seccomp_profile = "{root}/usr/share/containers/seccomp.json"
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
conmon_path = ["{conmon}"]
events_logger = "file"
infra_image = "{image}"
runtime = "chosen"

[engine.runtimes]
chosen = ["{runtime}"]

[network]
network_backend = "cni"
cni_plugin_dirs = ["{root}/usr/lib/cni"]
network_config_dir = "{folder}/cni"
"""
STORAGE = """
[storage]
driver = "overlay"
graphroot = "/run/p/storage"
runroot = "/run/p/run"
"""


class Podman:
    """``with Podman(runtime) as podman: podman("run", "--rm", BUSYBOX, "true")``; `runtime` is the path of a runc."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._stack = ExitStack()
        self.cgroup = f"t{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Podman:
        for part in PARTS:
            goparts.path(part)
        with self._stack:
            self.folder = self._stack.enter_context(short_folder("pm-"))
            self.watch = leaks.Watch([self.folder], [self.cgroup])
            self._stack.push(self._leaves_nothing)
            etc = f"cp -r {goparts.CACHE}/root/etc/containers /etc/"
            self.host = self._stack.enter_context(host.PrivateHost(own_etc(self.folder), etc))
            self._write_configuration()
            self._stack.callback(self.clean)
            layer = self.folder / "busybox.tar"
            layer.write_bytes(images.busybox_layer())
            self("import", "-c", "ENV PATH=/bin", "-c", "CMD sh", layer, BUSYBOX)
            self("import", "-c", "ENV PATH=/bin", "-c", 'CMD ["sleep", "1000000"]', layer, INFRA)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _write_configuration(self) -> None:
        places = {"root": goparts.CACHE / "root", "conmon": goparts.path("conmon"), "image": INFRA}
        text = CONFIGURATION.format(**places, runtime=self._runtime, folder=self.folder)
        (self.folder / "containers.conf").write_text(text)
        (self.folder / "storage.conf").write_text(STORAGE)

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """A call's command line, to be run by anyone with `environment`."""
        return self.host.inside([goparts.path("podman"), *words])

    def environment(self) -> dict[str, str]:
        return goparts.environment() | {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "HOME": str(self.folder),
            "TMPDIR": "/run",
        }

    def __call__(
        self, *words: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """One podman call. Raises CommandFailed unless `check` is false or the status is 0."""
        options = {"capture_output": True, "text": True, "timeout": 120, "env": self.environment()} | options
        if "input" not in options:
            options = {"stdin": subprocess.DEVNULL} | options
        done = subprocess.run(self.command(words), check=False, **options)
        return ctr.checked(done) if check else done

    def inspect(self, name: str, field: str) -> str:
        """One field of a container, as ``podman inspect --format`` writes it."""
        return self("container", "inspect", "--format", f"{{{{{field}}}}}", name).stdout.strip()

    def clean(self) -> None:
        """Remove every pod and every container."""
        self("pod", "rm", "--all", "--force", "--time", "0")
        self("rm", "--all", "--force", "--time", "0", "--volumes")

    def _leaves_nothing(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self.watch.check(removing_cgroups=True)  # podman leaves its conmons' group
        else:
            self.watch.remove_cgroups()
        return False
