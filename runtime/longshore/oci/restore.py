"""restore: a container from what `checkpoint` wrote, by criu.

The runtime makes the state directory and the cgroup, as for create; criu makes
the processes, as our children. It runs in a mount namespace of its own, in
which the root file system is a mount at ``<state>/criu-root``, as it wants: a
restore that fails leaves no mount.
"""

from __future__ import annotations

import fcntl
import os

from longshore.linux import files, mounts, namespaces, processes
from longshore.linux.cgroup import layout as cgroup_layout
from longshore.linux.cgroup.manager import Cgroup
from longshore.oci import codec, create, criu, delete, start, state
from longshore.oci import config as configuration
from longshore.oci.cli import BOOL, VALUE
from longshore.oci.create import Launch, Undo, write_pid_file
from longshore.oci.errors import NotFound, RuntimeFailure, explain
from longshore.oci.process import rootfs, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from longshore.oci.cli import Call

_SIGCONT = 18
_FIRST_FD = 3


def restore(
    root: str,
    id: str,
    bundle: str,
    options: criu.Options,
    *,
    pid_file: str = "",
    lsm: tuple[str, str] = ("", ""),
) -> int:
    """Bring a container back; the pid of its init, which is our child and gets our fds 0, 1, 2 for its pipes.

    ``lsm``: an LSM profile and a mount context for criu. Raises CriuFailed; then nothing is left.
    """
    launch = Restoration(root, id, bundle, options, lsm)
    with launch, Undo() as undo:
        launch.run(undo)
        if pid_file:
            write_pid_file(pid_file, launch.pid)
        start.after(state.load(launch.root, id))
    return launch.pid


class Restoration(Launch):
    """A launch whose processes criu makes."""

    def __init__(self, root: str, id: str, bundle: str, options: criu.Options, lsm: tuple[str, str]) -> None:
        state.validate_id(id)
        bundle = os.path.abspath(bundle)
        super().__init__(os.path.abspath(root), id, bundle, configuration.load(bundle))
        if self.config["process"].get("terminal"):
            raise RuntimeFailure("a container with a terminal can't be restored by longshore")
        self._options = options
        self._lsm = lsm
        self._hooks = bool(self.hooks.get("prestart") or self.hooks.get("createRuntime"))
        self._inherited: list[int] = []

    def run(self, undo: Undo) -> int:
        """See `Launch.run`."""
        if not os.path.isdir(self._options.image_path):
            raise RuntimeFailure(f"stat {self._options.image_path}: no such file or directory")
        path = configuration.rootfs_path(self.config, self.bundle)
        self._make_directory(undo)
        cgroup = Cgroup.of(cgroup_layout.detect(), create.cgroup_path(self.linux, self.id))
        wanted = spawn.Namespaces(self.linux.get("namespaces") or ())
        try:
            self._make_cgroup(cgroup, undo)
            self.save_filter()
            self._make_mountpoints(path)
            self._restore(path, cgroup)
            undo.push(lambda: self._kill(cgroup))
            self.pidfd = processes.pidfd_open(self.pid)
            state.State(self.root, self._record(path, cgroup, wanted)).save()
        finally:
            wanted.close()
        if self._hooks:
            self._run_runtime_hooks()
            cgroup.kill(_SIGCONT)
        return self.pid

    def _make_mountpoints(self, path: str) -> None:
        """Where binds go, which criu doesn't make; what lies in a file system of the container's comes with that."""
        own = [
            os.path.normpath("/" + entry["destination"].lstrip("/")) + "/"
            for entry in self.config.get("mounts") or ()
            if (entry["destination"], entry.get("source") or "") not in criu.external_mounts(self.config)
        ]
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for destination, source in criu.external_mounts(self.config):
                if not any(f"{destination}/".startswith(other) for other in own):
                    directory = os.path.isdir(os.path.join(self.bundle, source))
                    os.close(rootfs.place(root, destination, directory=directory))
        finally:
            os.close(root)

    def _restore(self, path: str, cgroup: Cgroup) -> None:
        point, pid_file = f"{self.directory}/criu-root", f"{self.directory}/criu.pid"
        os.mkdir(point, 0o755)
        words = ["--root", point, "--restore-detached", "--restore-sibling", "--pidfile", pid_file]
        words += self._words(cgroup)
        try:
            criu.run(self._options, "restore", words, lambda command: self._start(command, path, point))
            self.pid = int(files.read_bounded(pid_file, 32))
            os.unlink(pid_file)
        finally:
            for fd in self._inherited:
                os.close(fd)
            os.rmdir(point)

    def _words(self, cgroup: Cgroup) -> list[str]:
        words = []
        prefix = cgroup_layout.detect()
        for name, path in cgroup.paths.items():
            inside = path.removeprefix(prefix.mounts[name]) or "/"
            words += ["--cgroup-root", f"{name}:{inside}" if name else inside]
        for destination, source in criu.external_mounts(self.config):
            words += ["--external", f"mnt[{destination}]:{os.path.join(self.bundle, source)}"]
        if self.linux.get("maskedPaths"):
            words += ["--external", f"mnt[{criu.NULL}]:{criu.NULL}"]
        for _, path, label in criu.external_namespaces(self.config):
            words += [
                "--inherit-fd",
                f"fd[{self._inherit(os.open(path, os.O_RDONLY | os.O_CLOEXEC))}]:{label}",
            ]
        for number, name in enumerate(self._descriptors()):
            if name.startswith(("pipe:", "socket:")):
                words += ["--inherit-fd", f"fd[{self._inherit(os.dup(number))}]:{name}"]
        for flag, value in zip(("--lsm-profile", "--lsm-mount-context"), self._lsm, strict=True):
            words += [flag, value] if value else []
        return words + (["--leave-stopped"] if self._hooks else [])

    def _inherit(self, fd: int) -> int:
        self._inherited.append(fd)
        return _FIRST_FD + len(self._inherited) - 1

    def _descriptors(self) -> list[str]:
        try:
            data = files.read_bounded(f"{self._options.image_path}/{criu.DESCRIPTORS}", 65536)
        except FileNotFoundError:
            return []
        return [name for name in codec.loads(data) if isinstance(name, str)][:3]

    def _start(self, command: list[str], path: str, point: str) -> int:
        pid, pidfd = namespaces.clone(namespaces.CLONE_NEWNS)
        if pid == 0:
            self._become_criu(command, path, point)
        os.close(pidfd)
        return pid

    def _become_criu(self, command: list[str], path: str, point: str) -> NoReturn:
        try:
            mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
            mounts.mount(path, point, None, mounts.MS_BIND | mounts.MS_REC)
            # All above its place first, so that none overwrites one that is still to be moved.
            high = [
                fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64 + len(self._inherited)) for fd in self._inherited
            ]
            for number, fd in enumerate(high):
                os.dup2(fd, _FIRST_FD + number)
            processes.close_range(_FIRST_FD + len(high))
            null = os.open(criu.NULL, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            os.close(null)
            criu.execute(command)
        except BaseException as error:
            os.write(2, f"{explain(error)}\n".encode())
        finally:
            os._exit(1)


FLAGS = {
    **criu.FLAGS,
    "console-socket": VALUE,
    "bundle b": VALUE,
    "detach d": BOOL,
    "pid-file": VALUE,
    "no-subreaper": BOOL,
    "no-pivot": BOOL,
    "lsm-profile": VALUE,
    "lsm-mount-context": VALUE,
}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc restore [--image-path DIR] [--bundle DIR] [--detach] [--pid-file FILE] ... ID``"""
    id, detach = call.arguments[0], call.on("detach")
    create.check_driver(call.systemd_cgroup)
    if call.has("console-socket"):
        raise RuntimeFailure("a container with a terminal can't be restored by longshore")
    if not call.on("no-subreaper"):
        processes.set_child_subreaper()
    from longshore.oci import foreground

    companion = None if detach else foreground.Companion()
    pid = restore(
        call.root,
        id,
        call.value("bundle", "."),
        criu.Options.of(call, call.criu),
        pid_file=call.value("pid-file"),
        lsm=(call.value("lsm-profile"), call.value("lsm-mount-context")),
    )
    if companion is None:
        return 0
    try:
        return companion.wait(pid)
    finally:
        try:
            delete.delete(call.root, id, force=True)
        except NotFound:
            pass
