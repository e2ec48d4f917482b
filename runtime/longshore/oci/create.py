"""create: a container whose first process is set up and waits for start.

The order of things is a stack: whatever was made goes, in reverse, when a later
thing fails (`Undo`), so that a failed create leaves nothing.
"""

from __future__ import annotations

import os
import time

from longshore.linux import files, processes, seccomp
from longshore.linux.cgroup import layout as cgroup_layout
from longshore.linux.cgroup.manager import Cgroup
from longshore.oci import codec, log, rootless, state
from longshore.oci import config as configuration
from longshore.oci.cli import BOOL, VALUE
from longshore.oci.errors import (
    AlreadyExists,
    HookFailed,
    InvalidConfig,
    RuntimeFailure,
    StartFailed,
    explain,
)
from longshore.oci.process import filters, idmap, listener, messages, program, rootfs, spawn
from longshore.oci.process.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from longshore.oci.cli import Call

# What exec inherits from the container when its own process object doesn't say.
EXEC_DEFAULTS = (
    "apparmorProfile",
    "capabilities",
    "noNewPrivileges",
    "oomScoreAdj",
    "rlimits",
    "selinuxLabel",
)
_IN_INIT = "unable to start container process: error during container init: "
_RUNTIME_HOOKS = ("prestart", "createRuntime")
_CONTAINER_HOOKS = ("createContainer", "startContainer")


class Undo:
    """``with Undo() as undo:`` what was pushed is done, last first, if the block fails."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def push(self, step: Callable[[], object]) -> None:
        """Remember how to undo what was just done."""
        self._steps.append(step)

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            return
        for step in reversed(self._steps):
            try:
                step()
            except (OSError, RuntimeFailure) as error:
                log.write("warning", f"undoing a failed start: {explain(error)}")


def create(
    root: str,
    id: str,
    bundle: str,
    *,
    console_socket: str = "",
    pid_file: str = "",
    no_pivot: bool = False,
    no_new_keyring: bool = False,
    systemd_cgroup: bool = False,
    preserve_fds: int = 0,
) -> int:
    """Create container ``id`` from a bundle; the pid of its init, which inherits fds 0, 1, 2.

    Init is a child of this process and outlives it. Raises RuntimeFailure (and
    subclasses); then nothing of the container is left.
    """
    state.validate_id(id)
    check_driver(systemd_cgroup)
    root, bundle = os.path.abspath(root), os.path.abspath(bundle)
    config = configuration.load(bundle)
    launch = Launch(root, id, bundle, config)
    launch.no_pivot = no_pivot
    launch.new_keyring = not no_new_keyring
    launch.preserve_fds = preserve_fds
    launch.console_socket = console_socket
    with launch, Undo() as undo:
        pid = launch.run(undo)
        if pid_file:
            write_pid_file(pid_file, pid)
    return pid


def check_driver(systemd_cgroup: bool) -> None:
    """RuntimeFailure if systemd is to make the cgroup: we make it ourselves only."""
    if systemd_cgroup:
        raise RuntimeFailure("systemd cgroup driver is not supported by longshore")


def write_pid_file(path: str, pid: int) -> None:
    """The pid, whole or not at all."""
    try:
        files.replace_file(path, str(pid).encode(), 0o666 & ~_umask())
    except OSError as error:
        raise RuntimeFailure(f"open {path}: {(error.strerror or '').lower()}") from None


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


class Launch:
    """One container on its way from config.json to a waiting init. ``with``: it holds a pidfd."""

    def __init__(self, root: str, container_id: str, bundle: str, config: dict[str, Any]) -> None:
        self.root = root
        self.id = container_id
        self.bundle = bundle
        self.config = config
        self.linux: dict[str, Any] = config.get("linux") or {}
        self.hooks: dict[str, Any] = config.get("hooks") or {}
        self.directory = f"{root}/{container_id}"
        self.no_pivot = False
        self.new_keyring = True
        self.preserve_fds = 0
        self.nested = rootless.nested()
        self.rootless = rootless.wanted(self.nested)
        self.console_socket = ""
        self.console_fd = -1  # instead of a socket path: a connection the caller made
        self.pid = 0
        self.pidfd = -1
        self.to_close: list[int] = []

    def run(self, undo: Undo) -> int:
        """The whole of it; the caller's Undo gives everything back if anything fails, now or later."""
        self._check()
        rootfs_path = configuration.rootfs_path(self.config, self.bundle)
        self._make_directory(undo)
        layout = cgroup_layout.detect()
        cgroup = self._cgroup(layout)
        namespaces = spawn.Namespaces(self.linux.get("namespaces") or ())
        try:
            ours, theirs = messages.pair()
            init = Init(self.config, self.id, namespaces, theirs)
            try:
                self._make_cgroup(cgroup, undo)
                self._prepare(init, rootfs_path, layout, cgroup)
                self._fork(init, cgroup, undo)
            finally:
                theirs.close()
                self._close(init)
            try:
                record = self._record(rootfs_path, cgroup, namespaces)
                self._guide(init, ours, cgroup, state.State(self.root, record))
            finally:
                ours.close()
        finally:
            namespaces.close()
        return self.pid

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _check(self) -> None:
        process = self.config["process"]
        if rootless.unprivileged():
            rootless.check(self.config)
        if process.get("terminal") and not self.console_socket and self.console_fd < 0:
            raise RuntimeFailure("cannot allocate tty if runc will detach without setting console socket")
        if self.console_socket and not process.get("terminal"):
            raise RuntimeFailure("cannot use console socket if runc will not detach or allocate tty")
        for fd in range(3, 3 + self.preserve_fds):
            try:
                os.fstat(fd)
            except OSError:
                raise InvalidConfig(
                    f"please check that preserved-fd {fd - 3} (of {self.preserve_fds}) is present"
                ) from None

    def _make_directory(self, undo: Undo) -> None:
        os.makedirs(self.root, 0o700, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o711)
        except FileExistsError:
            raise AlreadyExists() from None
        undo.push(lambda: state.remove_directory(self.directory))

    def _cgroup(self, layout: cgroup_layout.Layout) -> Cgroup:
        cgroup = Cgroup.of(layout, cgroup_path(self.linux, self.id))
        if self.rootless and not os.access(
            f"{os.path.dirname(cgroup.paths.get('', ''))}/cgroup.procs", os.W_OK
        ):
            # Nobody can be born into a v2 cgroup whose parent isn't theirs.
            cgroup.paths.pop("", None)
        return cgroup

    def _make_cgroup(self, cgroup: Cgroup, undo: Undo) -> None:
        if cgroup.frozen():
            raise StartFailed("container's cgroup unexpectedly frozen")
        fresh = not cgroup.exists()
        if not fresh and cgroup.procs():
            log.write("warning", f"container's cgroup is not empty: {len(cgroup.procs())} process(es) found")
        if fresh:
            state.note_cgroup(self.directory, cgroup)
        try:
            cgroup.create(lenient=self.rootless and not self.linux.get("cgroupsPath"))
            if fresh:
                undo.push(lambda: cgroup.delete())
            # Which devices it may use is not for a user to say; the kernel asks who owns the node.
            cgroup.apply(self.linux.get("resources") or {}, device_rules=not self.rootless)
        except (OSError, ValueError) as error:
            raise StartFailed(
                f"unable to start container process: unable to apply cgroup configuration: {explain(error)}"
            ) from None

    def _prepare(self, init: Init, rootfs_path: str, layout: cgroup_layout.Layout, cgroup: Cgroup) -> None:
        """Open everything that init will need; it all closes in `_close`."""
        linux, namespaces = self.linux, init.namespaces
        init.no_pivot, init.new_keyring, init.preserve_fds = (
            self.no_pivot,
            self.new_keyring,
            self.preserve_fds,
        )
        init.rootfs = rootfs_path
        init.propagation = rootfs.propagation(linux.get("rootfsPropagation") or "")
        warn_of_unknown(init.identity)
        init.filter = self.save_filter()
        if self._listens():
            init.listener = listener.connect(self.linux["seccomp"]["listenerPath"])
        self._prepare_hooks(init)
        if self.console_socket or self.console_fd >= 0:
            from longshore.oci.process import console

            init.console = console.connect(self.console_socket) if self.console_socket else self.console_fd
            init.set_up_console = console.set_up
        init.entrances = cgroup.entrances()
        init.start_fifo = self._fifo(state.START_FIFO)
        init.report_fifo = self._fifo(state.REPORT_FIFO)
        unprivileged = init.unprivileged = rootless.unprivileged()
        init.setgroups = rootless.may_set_groups(self.nested)
        if "mount" in namespaces:
            steps = rootfs.plan(
                self.config,
                self.bundle,
                layout,
                cgroup,
                userns="user" in namespaces or self.nested,
                private_cgroup="cgroup" in namespaces,
                idmap=self._idmap,
            )
            init.steps = steps
            if log.debugging():
                for step in steps:
                    log.write("debug", f"plan: {step.describe()}")
            try:
                rootfs.open_early(steps, all="user" in namespaces and not unprivileged)
            except StartFailed as error:
                raise StartFailed(f"{_IN_INIT}{error}") from None
            if "user" in namespaces and not unprivileged:
                init.root = rootfs.open_root(rootfs_path, init.propagation)

    def save_filter(self) -> seccomp.Filter | None:
        """Compile the profile, if there is one; exec will find it in the state directory."""
        profile = self.linux.get("seccomp")
        if not profile:
            return None
        try:
            flags = seccomp.flags_of(profile)
        except seccomp.SeccompError as error:
            raise InvalidConfig(str(error)) from None
        if listener.wanted(profile):
            flags |= seccomp.NEW_LISTENER
        code = filters.compiled(profile)
        files.replace_file(f"{self.directory}/{state.FILTER_FILE}", flags.to_bytes(8, "little") + code)
        return seccomp.Filter(code, flags)

    def _listens(self) -> bool:
        profile = self.linux.get("seccomp")
        return listener.wanted(profile) if profile else False

    def _announcement(self) -> str:
        """What init tells the program that listens to its filter."""
        if not self._listens():
            return ""
        profile = self.linux["seccomp"]
        return listener.message(
            profile.get("listenerMetadata") or "", self.pid, self._shown(state.CREATED, self.pid)
        )

    def _prepare_hooks(self, init: Init) -> None:
        present = [kind for kind in state.HOOK_KINDS if self.hooks.get(kind)]
        init.runtime_hooks = any(kind in _RUNTIME_HOOKS for kind in present)
        if any(kind in _CONTAINER_HOOKS for kind in present):
            from longshore.oci.process import hooks

            configured, shown = self.hooks, self._hook_state

            def run(kind: str) -> None:
                status = "creating" if kind == "createContainer" else state.CREATED
                # Inside a pid namespace getpid is not what the host calls it.
                hooks.run(kind, configured.get(kind) or (), shown(status, os.getpid()))

            init.run_hooks = run

    def _hook_state(self, status: str, pid: int) -> bytes:
        return codec.dumps(self._shown(status, pid)).encode(errors="surrogateescape")

    def _shown(self, status: str, pid: int) -> dict[str, Any]:
        record = {
            "oci_version": configuration.OCI_VERSION,
            "id": self.id,
            "bundle": self.bundle,
            "annotations": self.config.get("annotations"),
            "init_process_pid": pid,
        }
        return state.State(self.root, record).outline(status)

    def _fifo(self, name: str) -> int:
        path = f"{self.directory}/{name}"
        os.mkfifo(path, 0o622)
        # Read-write: it never sees end of file, and opening never blocks.
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def _idmap(self, entry: dict[str, Any]) -> int:
        own = bool(entry.get("uidMappings")), bool(entry.get("gidMappings"))
        source = entry if any(own) else self.linux
        uids, gids = source.get("uidMappings"), source.get("gidMappings")
        if not uids or not gids:
            raise InvalidConfig(
                f'mount "{entry.get("destination")}": an idmapped mount needs uidMappings and gidMappings,'
                " its own or those of a user namespace"
            )
        fd = idmap.user_namespace(configuration.id_map(uids), configuration.id_map(gids))
        self.to_close.append(fd)
        return fd

    def _fork(self, init: Init, cgroup: Cgroup, undo: Undo) -> None:
        born_in = cgroup.birthplace()
        try:
            self.pid, self.pidfd = spawn.spawn(
                init.namespaces,
                init.channel,
                init.run,
                cgroup=born_in,
                offsets=configuration.time_offsets(self.linux),
            )
        except OSError as error:
            raise StartFailed(f"unable to start init: {explain(error)}") from None
        finally:
            if born_in >= 0:
                os.close(born_in)
        undo.push(lambda: self._kill(cgroup))

    def _kill(self, cgroup: Cgroup) -> None:
        try:
            processes.pidfd_send_signal(self.pidfd, 9)
        except ProcessLookupError:
            pass
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        cgroup.kill(9)

    def _close(self, init: Init) -> None:
        """The runtime's copies of init's descriptors."""
        own = [init.root, init.start_fifo, init.report_fifo, init.console, init.listener]
        for fd in [*own, *init.entrances, *self.to_close]:
            if fd >= 0:
                os.close(fd)
        rootfs.close_all(init.steps)

    def _record(self, rootfs_path: str, cgroup: Cgroup, namespaces: spawn.Namespaces) -> dict[str, Any]:
        process = processes.ProcessId.of(self.pid)
        return {
            "id": self.id,
            "init_process_pid": self.pid,
            "init_process_start": process.start,
            "boot_id": process.boot,
            "created": state.timestamp(time.time_ns()),
            "oci_version": configuration.OCI_VERSION,
            "bundle": self.bundle,
            "rootfs": rootfs_path,
            "owner_uid": os.geteuid(),
            "annotations": self.config.get("annotations") or {},
            "cgroup_paths": cgroup.paths,
            "cgroup_version": cgroup.version,
            "no_pivot": self.no_pivot,
            "new_keyring": self.new_keyring,
            "config": {
                "namespaces": sorted([*namespaces.new, *namespaces.joined]),
                "hooks": {
                    kind: self.hooks[kind] for kind in ("poststart", "poststop") if self.hooks.get(kind)
                },
                "process": {key: self.config["process"].get(key) for key in EXEC_DEFAULTS},
                "resources": self.linux.get("resources") or {},
                "personality": self.linux.get("personality"),
                "seccomp": bool(self.linux.get("seccomp")),
                "listener": self._listener(),
            },
        }

    def _listener(self) -> dict[str, str] | None:
        if not self._listens():
            return None
        profile = self.linux["seccomp"]
        return {"path": profile["listenerPath"], "metadata": profile.get("listenerMetadata") or ""}

    def _guide(self, init: Init, channel: messages.Channel, cgroup: Cgroup, container: state.State) -> None:
        """Our side of the conversation in `messages`."""
        # From here on another process can find, kill and delete what we make, should we die.
        container.save()
        try:
            self._enrol(init, cgroup)
            channel.send(messages.GO, self._announcement())
            expected = (messages.HOOKS, messages.READY) if init.runtime_hooks else (messages.READY,)
            name, _ = channel.receive(*expected)
            if name == messages.HOOKS:
                self._run_runtime_hooks()
                channel.send(messages.HOOKED)
                channel.receive(messages.READY)
        except (StartFailed, OSError) as error:
            reason = explain(error)
            if cgroup.oom_kills():
                reason = "container init was OOM-killed (memory limit too low?)"
            raise StartFailed(f"unable to start container process: {reason}") from None

    def _enrol(self, init: Init, cgroup: Cgroup) -> None:
        """What only the host's root may write about init."""
        adjustment = self.config["process"].get("oomScoreAdj")
        if adjustment is not None:
            set_oom_score(self.pid, adjustment)
        if "user" in init.namespaces.joined and "" in cgroup.paths:
            files.write_file(f"{cgroup.paths['']}/cgroup.procs", str(self.pid))
        if "user" in init.namespaces.new:
            program.raise_hard_limits(init.identity.rlimits, self.pid)
            if init.unprivileged:
                # Only who can't give up a group may choose their own ids.
                files.write_file(f"/proc/{self.pid}/setgroups", "deny")
            files.write_file(f"/proc/{self.pid}/uid_map", configuration.id_map(self.linux.get("uidMappings")))
            files.write_file(f"/proc/{self.pid}/gid_map", configuration.id_map(self.linux.get("gidMappings")))

    def _run_runtime_hooks(self) -> None:
        from longshore.oci.process import hooks

        for kind in _RUNTIME_HOOKS:
            try:
                hooks.run(kind, self.hooks.get(kind) or (), self._hook_state("creating", self.pid))
            except HookFailed as error:
                raise HookFailed(f"{_IN_INIT}{error}") from None


def warn_of_unknown(identity: program.Identity) -> None:
    """Capabilities that this kernel doesn't know are none; say so."""
    if identity.unknown:
        names = " ".join(identity.unknown)
        log.write("warning", f"ignoring unknown or unavailable capabilities: [{names}]")


def set_oom_score(pid: int, adjustment: int) -> None:
    """oom_score_adj of a process that hasn't executed foreign code yet."""
    path = f"/proc/{pid}/oom_score_adj"
    if files.read_bounded(path).strip() != str(adjustment).encode():
        try:
            files.write_file(path, str(adjustment))
        except OSError as error:
            raise StartFailed(f"error setting oom_score_adj to {adjustment}: {explain(error)}") from None


def cgroup_path(linux: dict[str, Any], container_id: str) -> str:
    """linux.cgroupsPath, cleaned so that it can't climb; the id, below our own cgroup, if there is none. InvalidConfig.

    A hierarchy's root, or our own cgroup, is nobody's: its limits and its end would be those of all in there.
    """
    path = linux.get("cgroupsPath") or ""
    if not path:
        return container_id
    cleaned = os.path.normpath("/" + path).lstrip("/")
    if not cleaned:
        raise InvalidConfig(f"cgroupsPath {path} is not a container's own")
    return "/" + cleaned if path.startswith("/") else cleaned


FLAGS = {
    "bundle b": VALUE,
    "console-socket": VALUE,
    "pid-file": VALUE,
    "no-pivot": BOOL,
    "no-new-keyring": BOOL,
    "preserve-fds": VALUE,
}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc create [--bundle DIR] [--console-socket PATH] [--pid-file FILE] [--no-pivot] ... ID``"""
    create(
        call.root,
        call.arguments[0],
        call.value("bundle", "."),
        console_socket=call.value("console-socket"),
        pid_file=call.value("pid-file"),
        no_pivot=call.on("no-pivot"),
        no_new_keyring=call.on("no-new-keyring"),
        systemd_cgroup=call.systemd_cgroup,
        preserve_fds=call.number("preserve-fds"),
    )
    return 0
