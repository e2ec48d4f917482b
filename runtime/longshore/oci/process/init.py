"""The container's first process, from fork to execve of the user's program.

    go          wait until the runtime has put the cgroups and id maps in place
    own         session, keyring, loopback
    root        mounts, nodes; hooks; pivot
    settle      console, read-only, names, sysctl, masks
    become      user, groups, capabilities, directory
    ready       tell the runtime; block on the start FIFO
    execute     hooks, filter, execve

All modules are imported, and all descriptors open, before the fork. After
`disarm` nothing can be imported; after the root is changed nothing is read from
it but what is named here, each by descriptor.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` imports enum: 5 ms
import os

from longshore.linux import libc, mounts, namespaces, processes, seccomp
from longshore.linux.cgroup import manager
from longshore.oci.errors import RuntimeFailure, StartFailed, explain
from longshore.oci.process import keyring, labels, listener, messages, network, program, rootfs, tuning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from longshore.oci.process.spawn import Namespaces

_PREFIX = "error during container init: "


class Init:
    """Everything the first process needs, made by the runtime; `run` is its life."""

    def __init__(
        self, config: dict[str, Any], container_id: str, wanted: Namespaces, channel: messages.Channel
    ) -> None:
        self.config = config
        self.linux: dict[str, Any] = config.get("linux") or {}
        self.process: dict[str, Any] = config["process"]
        self.id = container_id
        self.namespaces = wanted
        self.channel = channel
        self.identity = program.Identity(self.process)
        self.tuning = tuning.Tuning(self.process, self.linux.get("personality"))
        self.entrances: list[int] = []
        self.root = -1
        self.rootfs = ""
        self.propagation = 0
        self.steps: Sequence[rootfs.Step] = ()
        self.start_fifo = -1
        self.report_fifo = -1
        self.console = -1
        self.filter: seccomp.Filter | None = None
        self.listener = -1
        self.preserve_fds = 0
        self.no_pivot = False
        self.new_keyring = True
        # Made by an ordinary user: its parent writes its id maps through a procfs that must let it.
        self.unprivileged = False
        self.setgroups = True
        self.runtime_hooks = False
        # Called with the kind of hook; None when there are none for this side.
        self.run_hooks: Callable[[str], None] | None = None
        # Set when a terminal is wanted; imported by the runtime, never here.
        self.set_up_console: Callable[..., None] | None = None

    def keep(self) -> list[int]:
        """Descriptors the process needs; all others are closed first thing."""
        own = [self.channel.fd, self.root, self.start_fifo, self.report_fifo, self.console]
        own += [self.listener, *self.entrances]
        opened = [fd for step in self.steps for fd in step.fds]
        return [fd for fd in [0, 1, 2, *own, *opened, *range(3, 3 + self.preserve_fds)] if fd >= 0]

    def run(self) -> None:
        """Never returns: execve or an exception (which `spawn.child` reports)."""
        try:
            processes.close_fds_except(self.keep())
            self._label = labels.Label(self.process)
            if not self.unprivileged:
                processes.set_dumpable(False)
            _, self._announcement = self.channel.receive(messages.GO)
            processes.set_dumpable(False)
            self._own()
            self._make_root()
            self._settle()
        except Exception as error:
            self._fail(_PREFIX + explain(error))
        try:
            ready = self._become()
        except Exception as error:
            self._fail(explain(error))
        self._execute(*ready)

    def _fail(self, message: str) -> NoReturn:
        self.channel.send(messages.FAILED, message)
        os._exit(1)

    # own

    def _own(self) -> None:
        manager.enter(self.entrances)
        if "user" in self.namespaces.new:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            processes.set_dumpable(False)
        if self.namespaces.late_flags:
            namespaces.unshare(self.namespaces.late_flags)
        os.setsid()
        program.reset_signals()
        for number in (1, 2, 3, 15):
            # Until execve we are PID 1 of the container: without a handler a kill before start would do nothing.
            _signal.signal(number, _die)
        if self.new_keyring:
            keyring.join(f"_ses.{self.id}", create=True)
        if "network" in self.namespaces.new:
            network.loopback_up()

    # root

    def _make_root(self) -> None:
        os.umask(0)
        if "mount" not in self.namespaces:
            if self.runtime_hooks:
                self._ask_for_hooks()
            self.root = os.open(self.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            rootfs.change_root(self.root)
            return
        self.root = rootfs.attach_root(self.root, self.rootfs, self.propagation)
        for step in self.steps:
            step.run(self.root)
        if self.runtime_hooks:
            self._ask_for_hooks()
        if self.run_hooks is not None:
            self.run_hooks("createContainer")
        if self.no_pivot:
            rootfs.move_root(self.root)
        else:
            rootfs.pivot(self.root)
        if self.propagation & mounts.MS_SHARED:
            mounts.mount(None, "/", None, self.propagation)

    def _ask_for_hooks(self) -> None:
        self.channel.send(messages.HOOKS)
        self.channel.receive(messages.HOOKED)

    # settle

    def _settle(self) -> None:
        private = "mount" in self.namespaces
        os.umask(0o022)
        cwd = self.process.get("cwd") or "/"
        try:
            os.makedirs(cwd, 0o755, exist_ok=True)
        except FileExistsError:
            raise StartFailed(f"mkdir {cwd}: not a directory") from None
        if self.console >= 0 and self.set_up_console is not None:
            size = self.process.get("consoleSize")
            identity = self.identity
            self.set_up_console(
                self.root, self.console, size, mount=private, uid=identity.uid, gid=identity.gid
            )
            self.console = -1
        if private:
            rootfs.finish_dev(self.config)
            if (self.config.get("root") or {}).get("readonly"):
                mounts.mount_setattr(self.root, set=mounts.MOUNT_ATTR_RDONLY)
        self._name()
        self._sysctl()
        if private:
            self._cover()

    def _name(self) -> None:
        for key, call in (("hostname", "sethostname"), ("domainname", "setdomainname")):
            name = self.config.get(key)
            if name:
                encoded = os.fsencode(name)
                libc.call(call, encoded, len(encoded), path=name)

    def _sysctl(self) -> None:
        """Through a procfs of our own, mounted nowhere: the container's /proc may be anything."""
        wanted = self.linux.get("sysctl") or {}
        if not wanted:
            return
        proc = mounts.detached("proc", [("source", "proc")])
        try:
            for key, value in wanted.items():
                path = "sys/" + sysctl_path(key)
                try:
                    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
                    try:
                        os.write(fd, str(value).encode())
                    finally:
                        os.close(fd)
                except OSError as error:
                    reason = (error.strerror or "").lower()
                    raise StartFailed(f"write sysctl key {key}: open /proc/{path}: {reason}") from None
        finally:
            os.close(proc)

    def _cover(self) -> None:
        for path in self.linux.get("readonlyPaths") or ():
            rootfs.make_readonly(self.root, path)
        masks = rootfs.Masks(self.root)
        for path in self.linux.get("maskedPaths") or ():
            masks.cover(path)
        masks.close()

    # become

    def _become(self) -> tuple[program.Program, tuple[bytes, bytes, int]]:
        identity = self.identity
        try:
            environment = program.environment(self.process, identity.uid, self.root)
        except StartFailed as error:
            raise StartFailed(f"{_PREFIX}{error}") from None
        os.close(self.root)
        if identity.no_new_privs:
            processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
        self._label.apply()
        self.tuning.apply()
        program.apply_rlimits(identity.rlimits)
        program.become(identity, self.process.get("cwd") or "/", setgroups=self.setgroups)
        path = program.resolve(self.process["args"], environment)
        caps = program.final_capabilities(identity)
        return program.Program(path, self.process["args"], environment), caps

    # execute

    def _execute(self, ready: program.Program, caps: tuple[bytes, bytes, int]) -> None:
        self.channel.send(messages.READY)
        self.channel.close()
        while os.read(self.start_fifo, 1) != b"0":
            pass
        os.close(self.start_fifo)
        if self.run_hooks is not None:
            try:
                self.run_hooks("startContainer")
            except RuntimeFailure as error:
                os.write(self.report_fifo, str(error).encode(errors="surrogateescape")[:4096])
                os._exit(1)
        program.verify_directory()
        # The report FIFO closes at execve, too: that is what tells ``start`` that we got there.
        processes.close_range(3 + self.preserve_fds, flags=processes.CLOSE_RANGE_CLOEXEC)
        program.reset_signals()
        listener.arm(self.filter, self.listener, self._announcement)
        ready.execute(self.filter, caps)


def _die(number: int, _: object) -> None:
    os._exit(128 + number)


def sysctl_path(key: str) -> str:
    """``net.ipv4.ip_forward`` as a path below /proc/sys; dots and slashes may be swapped, as sysctl(8) has it."""
    first = next((character for character in key if character in "./"), ".")
    if first == ".":
        key = key.translate({ord("."): "/", ord("/"): "."})
    return os.path.normpath("/" + key)[1:]
