"""checkpoint: write the processes of a container to disk, by criu.

The images directory also gets ``descriptors.json``: what the standard streams
of init were, so that `restore` can put new ones in their place.
"""

from __future__ import annotations

import os
import stat

from longshore.linux import files
from longshore.oci import codec, criu, state
from longshore.oci import config as configuration
from longshore.oci.cli import BOOL, VALUE, UsageError
from longshore.oci.delete import destroy
from longshore.oci.errors import RuntimeFailure, WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from longshore.oci.cli import Call
    from longshore.oci.state import State


def checkpoint(
    root: str,
    id: str,
    options: criu.Options,
    *,
    parent_path: str = "",
    leave_running: bool = False,
    pre_dump: bool = False,
    page_server: str = "",
    status_fd: int = -1,
) -> None:
    """Dump a container into ``options.image_path``; it is gone then, unless it is to be left running.

    ``pre_dump`` writes its memory only. Raises CriuFailed, WrongState.
    """
    container = state.load(root, id)
    status = container.status
    if status in (state.CREATED, state.STOPPED):
        raise WrongState(f"Container cannot be checkpointed in {status} state")
    config = configuration.load(container.bundle)
    if config["process"].get("terminal"):
        raise RuntimeFailure("a container with a terminal can't be checkpointed by longshore")
    os.makedirs(options.image_path, 0o700, exist_ok=True)
    words = _words(container, config)
    if leave_running and not pre_dump:
        words.append("--leave-running")
    if pre_dump or parent_path:
        words.append("--track-mem")
    if parent_path:
        words += ["--prev-images-dir", _parent(parent_path, options.image_path)]
    if page_server:
        address, colon, port = page_server.rpartition(":")
        if not colon or not port.isdecimal():
            raise UsageError("Use --page-server ADDRESS:PORT to specify page server")
        words += ["--page-server", "--address", address, "--port", port]
    if status_fd >= 0:
        words += ["--status-fd", str(status_fd)]
    if not pre_dump:
        _write_descriptors(container, options.image_path)
    criu.run(options, "pre-dump" if pre_dump else "dump", words, lambda command: _start(command, status_fd))
    if not leave_running and not pre_dump:
        destroy(container)


def _words(container: State, config: dict[str, Any]) -> list[str]:
    words = ["--tree", str(container.process.pid), "--root", container.rootfs]
    paths = container.cgroup_paths
    freezer = paths.get("" if container.record["cgroup_version"] == 2 else "freezer")
    if freezer:
        words += ["--freeze-cgroup", freezer]
    for destination, _ in criu.external_mounts(config):
        words += ["--external", f"mnt[{destination}]:{destination}"]
    for path in _masked_files(container, config):
        words += ["--external", f"mnt[{path}]:{criu.NULL}"]
    for kind, path, label in criu.external_namespaces(config):
        words += ["--external", f"{kind}[{os.stat(path).st_ino}]:{label}"]
    return words


def _masked_files(container: State, config: dict[str, Any]) -> list[str]:
    """Masked directories are tmpfs, which criu understands; files are the null device of this host's."""
    found = []
    root = os.open(f"/proc/{container.process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in config["linux"].get("maskedPaths") or ():
            try:
                fd = files.open_in_root(root, path, os.O_PATH)
            except OSError:
                continue
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                found.append(path)
            os.close(fd)
    finally:
        os.close(root)
    return found


def _parent(parent: str, images: str) -> str:
    if os.path.isabs(parent):
        raise RuntimeFailure("--parent-path must be relative to the image path")
    if not os.path.isdir(os.path.join(images, parent)):
        raise RuntimeFailure(
            f"invalid parent path: stat {os.path.join(images, parent)}: no such file or directory"
        )
    return parent


def _write_descriptors(container: State, images: str) -> None:
    names = [os.readlink(f"/proc/{container.process.pid}/fd/{fd}") for fd in range(3)]
    files.replace_file(f"{images}/{criu.DESCRIPTORS}", codec.dumps(names).encode(errors="surrogateescape"))


def _start(command: list[str], status_fd: int) -> int:
    pid = os.fork()
    if pid == 0:
        if status_fd >= 0:
            os.set_inheritable(status_fd, True)
        criu.execute(command)
    return pid


FLAGS = {
    **criu.FLAGS,
    "parent-path": VALUE,
    "leave-running": BOOL,
    "status-fd": VALUE,
    "page-server": VALUE,
    "pre-dump": BOOL,
}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc checkpoint [--image-path DIR] [--work-path DIR] [--leave-running] [--pre-dump] ... ID``"""
    checkpoint(
        call.root,
        call.arguments[0],
        criu.Options.of(call, call.criu),
        parent_path=call.value("parent-path"),
        leave_running=call.on("leave-running"),
        pre_dump=call.on("pre-dump"),
        page_server=call.value("page-server"),
        status_fd=call.number("status-fd") if call.has("status-fd") else -1,
    )
    return 0
