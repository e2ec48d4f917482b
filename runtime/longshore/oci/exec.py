"""exec: another process in a running container."""

from __future__ import annotations

import os
import select

from longshore.linux import files, namespaces, processes, seccomp
from longshore.linux.cgroup import manager
from longshore.linux.cgroup.manager import Cgroup
from longshore.oci import codec, rootless, shape, state
from longshore.oci import config as configuration
from longshore.oci.cli import BOOL, LIST, VALUE, UsageError, number
from longshore.oci.create import EXEC_DEFAULTS, Undo, set_oom_score, warn_of_unknown, write_pid_file
from longshore.oci.errors import NotRunning, ProcessDied, RuntimeFailure, StartFailed, explain
from longshore.oci.process import keyring, labels, listener, messages, program, spawn, tuning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from longshore.oci import terminal
    from longshore.oci.cli import Call
    from longshore.oci.state import State

_EPERM = 1
_EBUSY = 16
_DYING = 1.0  # seconds for a container's init to go when a process in it was killed


def execute(
    root: str,
    id: str,
    process: dict[str, Any],
    *,
    console_socket: str = "",
    pid_file: str = "",
    preserve_fds: int = 0,
    ignore_paused: bool = False,
    cgroups: Sequence[str] = (),
) -> int:
    """Run ``process`` (config.json's object) in a container; its pid. It inherits fds 0, 1, 2 and is our child.

    Returns at the moment of execve. Raises RuntimeFailure; then there is no process.
    """
    container = state.load(root, id)
    launch = prepare(container, process, preserve_fds, ignore_paused=ignore_paused)
    launch.cgroup = below(launch.cgroup, cgroups)
    if process.get("terminal") and not console_socket:
        raise RuntimeFailure("cannot allocate tty if runc will detach without setting console socket")
    if console_socket:
        if not process.get("terminal"):
            raise RuntimeFailure("cannot use console socket if runc will not detach or allocate tty")
        from longshore.oci.process import console

        launch.console = console.connect(console_socket)
    return begin(launch, pid_file)


def begin(launch: Exec, pid_file: str) -> int:
    """Start it, and leave its pid in a file; the pid. NotRunning if the container ended meanwhile."""
    try:
        with Undo() as undo:
            return launch.run(undo, (lambda pid: write_pid_file(pid_file, pid)) if pid_file else None)
    except (OSError, RuntimeFailure) as error:
        # A pid namespace that ends kills our process first, and then waits for us to have noticed.
        patience = _DYING if isinstance(error, ProcessDied) else 0
        # Namespaces, cgroups and init's folder in /proc have gone: whichever was missed first, that is why.
        if _ended(launch.container.process, patience):
            raise NotRunning("cannot exec in a stopped container") from None
        raise


def _ended(process: processes.ProcessId, patience: float) -> bool:
    """Whether a process has ended, or does so within `patience` seconds."""
    try:
        pidfd = process.open()
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(patience * 1000))
    finally:
        os.close(pidfd)


def prepare(
    container: State, process: dict[str, Any], preserve_fds: int, *, ignore_paused: bool = False
) -> Exec:
    """The checked process, completed with the container's defaults."""
    if not ignore_paused or container.status != state.PAUSED:
        container.require("exec")
    configuration.check_shape(process, shape.PROCESS, "process")
    for key in EXEC_DEFAULTS:
        if process.get(key) is None:
            process[key] = container.config["process"].get(key)
    configuration.check_process(process)
    launch = Exec(container, process)
    launch.preserve_fds = preserve_fds
    return launch


class Exec:
    """One process on its way into a container: `run` is the runtime's side, `_live` the process'."""

    def __init__(self, container: State, process: dict[str, Any]) -> None:
        self.container = container
        self.process = process
        self.identity = program.Identity(process)
        self.tuning = tuning.Tuning(process, container.config.get("personality"))
        self.console = -1
        self.preserve_fds = 0
        self.filter: seccomp.Filter | None = None
        self.flags = 0
        self.nested = rootless.nested()
        self.joined = 0  # namespaces that were entered in between
        self.setgroups = True
        self.pidfd = -1
        self.root = -1
        self.entrances: list[int] = []
        self.listener = -1
        self.cgroup = container.cgroup
        self.affinity = tuning.Affinity(process)
        self.channel = messages.Channel(-1)

    # The runtime's side.

    def run(self, undo: Undo, announce: Callable[[int], None] | None) -> int:
        """Start it; the pid. ``announce`` is called with it before the program runs."""
        warn_of_unknown(self.identity)
        try:
            self.pidfd = self.container.process.open()
        except ProcessLookupError:
            raise NotRunning("cannot exec in a stopped container") from None
        try:
            ours, self.channel = messages.pair()
            try:
                self._prepare()
                pid, child = self._fork()
            finally:
                self._close()
        finally:
            os.close(self.pidfd)
        undo.push(lambda: _kill(pid, child))
        try:
            self._guide(ours, pid)
            if announce is not None:
                announce(pid)
            ours.send(messages.PROCEED)
        except (StartFailed, OSError) as error:
            kind = ProcessDied if isinstance(error, ProcessDied | BrokenPipeError) else StartFailed
            raise kind(f"unable to start container process: {explain(error)}") from None
        finally:
            ours.close()
        os.close(child)
        return pid

    def _prepare(self) -> None:
        pid = self.container.process.pid
        self.flags = _foreign_namespaces(pid, self.container.config["namespaces"])
        if self.flags & namespaces.CLONE_NEWUSER or self.nested:
            self.setgroups = files.read_bounded(f"/proc/{pid}/setgroups").strip() != b"deny"
            if self.identity.groups and not self.setgroups:
                raise RuntimeFailure("cannot set any additional groups in a rootless container")
        if self.container.config["seccomp"]:
            data = files.read_bounded(f"{self.container.directory}/{state.FILTER_FILE}")
            self.filter = seccomp.Filter(data[8:], int.from_bytes(data[:8], "little"))
        listens = self.container.config.get("listener")
        if listens:
            self.listener = listener.connect(listens["path"])
        if not self.flags & namespaces.CLONE_NEWNS:
            self.root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.entrances = self.cgroup.entrances()
        if self.console >= 0:
            from longshore.oci.process import console

            self._set_up_console = console.set_up

    def _fork(self) -> tuple[int, int]:
        """A child whose pid namespace is the container's: ours, for children, is changed and changed back."""
        if self.nested or rootless.unprivileged():
            return self._fork_between()
        own = processes.pidfd_open(os.getpid())
        moved = self.flags & namespaces.CLONE_NEWPID
        try:
            if moved:
                namespaces.setns(self.pidfd, namespaces.CLONE_NEWPID)
            pid, pidfd = _clone_into(self.cgroup, self.container.process.pid)
            if pid == 0:
                spawn.child(self._live, self.channel)
        except OSError as error:
            raise StartFailed(f"unable to start container process: {explain(error)}") from None
        finally:
            if moved:
                namespaces.setns(own, namespaces.CLONE_NEWPID)
            os.close(own)
        return pid, pidfd

    def _fork_between(self) -> tuple[int, int]:
        """The same for a user, who may not change back: by a process that stays there."""
        self.joined = self.flags & (namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWPID)
        born_in = self.cgroup.birthplace()
        try:
            return spawn.between(self._approach, self._live, self.channel, cgroup=born_in)
        except (OSError, StartFailed) as error:
            raise StartFailed(f"unable to start container process: {explain(error)}") from None
        finally:
            if born_in >= 0:
                os.close(born_in)

    def _approach(self) -> None:
        """In between, and still outside: from the first namespace on nobody in there may look into us."""
        adjustment = self.process.get("oomScoreAdj")
        if adjustment is not None:
            set_oom_score(os.getpid(), adjustment)
        processes.set_dumpable(False)
        if self.joined:
            namespaces.setns(self.pidfd, self.joined)

    def _close(self) -> None:
        self.channel.close()
        for fd in (self.console, self.root, self.listener, *self.entrances):
            if fd >= 0:
                os.close(fd)

    def _guide(self, channel: messages.Channel, pid: int) -> None:
        adjustment = self.process.get("oomScoreAdj")
        if adjustment is not None:
            set_oom_score(pid, adjustment)
        if self.flags & namespaces.CLONE_NEWUSER:
            program.raise_hard_limits(self.identity.rlimits, pid)
        channel.send(messages.GO, self._announcement(pid))
        channel.receive(messages.READY)

    def _announcement(self, pid: int) -> str:
        listens = self.container.config.get("listener")
        if not listens:
            return ""
        return listener.message(listens["metadata"], pid, self.container.outline(state.RUNNING))

    # The process' side: nothing is imported from here on.

    def _live(self) -> None:
        keep = [0, 1, 2, self.channel.fd, self.pidfd, self.root, self.console, self.listener, *self.entrances]
        processes.close_fds_except(fd for fd in [*keep, *range(3, 3 + self.preserve_fds)] if fd >= 0)
        label = labels.Label(self.process)
        processes.set_dumpable(False)
        _, announcement = self.channel.receive(messages.GO)
        try:
            self.affinity.first()
            manager.enter(self.entrances)
            self.affinity.then()
            self._join()
            ready, caps = self._become(label)
        except Exception as error:
            self._fail(explain(error))
        self.channel.send(messages.READY)
        self.channel.receive(messages.PROCEED)
        self.channel.close()
        program.verify_directory()
        processes.close_range(3 + self.preserve_fds, flags=processes.CLOSE_RANGE_CLOEXEC)
        listener.arm(self.filter, self.listener, announcement)
        ready.execute(self.filter, caps)

    def _fail(self, message: str) -> NoReturn:
        self.channel.send(messages.FAILED, message)
        os._exit(1)

    def _join(self) -> None:
        join(self.pidfd, self.flags & ~namespaces.CLONE_NEWPID & ~self.joined)
        if self.root >= 0:
            os.fchdir(self.root)
            os.chroot(".")
            os.close(self.root)
        os.chdir("/")
        os.close(self.pidfd)
        if self.flags & namespaces.CLONE_NEWUSER:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            processes.set_dumpable(False)
        os.setsid()
        program.reset_signals()
        if self.container.record["new_keyring"]:
            keyring.join(f"_ses.{self.container.id}", create=False)

    def _become(self, label: labels.Label) -> tuple[program.Program, tuple[bytes, bytes, int]]:
        identity = self.identity
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.umask(0o022)
        if self.console >= 0:
            size = self.process.get("consoleSize")
            self._set_up_console(root, self.console, size, mount=False, uid=identity.uid, gid=identity.gid)
        environment = program.environment(self.process, identity.uid, root)
        os.close(root)
        if identity.no_new_privs:
            processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
        label.apply()
        self.tuning.apply()
        program.apply_rlimits(identity.rlimits)
        program.become(identity, self.process["cwd"], setgroups=self.setgroups)
        path = program.resolve(self.process["args"], environment)
        return program.Program(path, self.process["args"], environment), program.final_capabilities(identity)


def below(cgroup: Cgroup, words: Sequence[str]) -> Cgroup:
    """``[CONTROLLER[,CONTROLLER...]:]PATH``: existing cgroups below the container's own. RuntimeFailure."""
    paths = dict(cgroup.paths)
    for word in words:
        names, colon, path = word.rpartition(":")
        chosen = names.split(",") if colon else list(paths)
        inside = os.path.normpath(path.lstrip("/") or ".")
        if inside.split("/")[0] == "..":
            raise RuntimeFailure(f"{path} is not a sub cgroup path")
        for name in chosen:
            if name not in paths or (colon and not name):
                raise RuntimeFailure(f"unknown controller {name} in --cgroup {word}")
            deeper = os.path.normpath(os.path.join(cgroup.paths[name], inside))
            if os.path.isdir(deeper):
                paths[name] = deeper
            elif name:
                raise RuntimeFailure(f"cgroup {deeper} does not exist")
    return Cgroup(paths, cgroup.version)


def _foreign_namespaces(pid: int, names: list[str]) -> int:
    """The flags of the container's namespaces that aren't our own."""
    flags = 0
    for name in names:
        file, flag = namespaces.TYPES[name]
        if not namespaces.same(f"/proc/{pid}/ns/{file}", f"/proc/self/ns/{file}"):
            flags |= flag
    return flags


def join(pidfd: int, flags: int) -> None:
    """Join all at once; if the mix of owners forbids that: all but user, then user, then what failed."""
    if not flags:
        return
    try:
        namespaces.setns(pidfd, flags)
        return
    except OSError as error:
        if error.errno != _EPERM or not flags & namespaces.CLONE_NEWUSER:
            raise
    failed = 0
    for _, flag in namespaces.TYPES.values():
        if flags & flag and flag != namespaces.CLONE_NEWUSER:
            try:
                namespaces.setns(pidfd, flag)
            except OSError:
                failed |= flag
    namespaces.setns(pidfd, namespaces.CLONE_NEWUSER)
    for _, flag in namespaces.TYPES.values():
        if failed & flag:
            namespaces.setns(pidfd, flag)


def _clone_into(cgroup: Cgroup, init: int) -> tuple[int, int]:
    """clone3 into the container's v2 cgroup; if that has children with controllers, into init's own."""
    born_in = cgroup.birthplace()
    try:
        return namespaces.clone(0, cgroup=born_in)
    except OSError as error:
        if error.errno != _EBUSY or born_in < 0:
            raise
    finally:
        if born_in >= 0:
            os.close(born_in)
    mount = manager.unified_mount(cgroup)
    line = next(
        line for line in files.read_bounded(f"/proc/{init}/cgroup").split(b"\n") if line.startswith(b"0::")
    )
    fd = os.open(mount + os.fsdecode(line[3:]), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return namespaces.clone(0, cgroup=fd)
    finally:
        os.close(fd)


def _kill(pid: int, pidfd: int) -> None:
    try:
        processes.pidfd_send_signal(pidfd, 9)
    except ProcessLookupError:
        pass
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    os.close(pidfd)


FLAGS = {
    "console-socket": VALUE,
    "cwd": VALUE,
    "env e": LIST,
    "tty t": BOOL,
    "user u": VALUE,
    "additional-gids g": LIST,
    "process p": VALUE,
    "detach d": BOOL,
    "pid-file": VALUE,
    "process-label": VALUE,
    "apparmor": VALUE,
    "no-new-privs": BOOL,
    "cap c": LIST,
    "preserve-fds": VALUE,
    "cgroup": LIST,
    "ignore-paused": BOOL,
}
ARGUMENTS = (1, None)


def main(call: Call) -> int:
    """``runc exec [--process FILE | options] [--detach] [--tty] ID [COMMAND...]``; the exit status is the process'"""
    container = state.load(call.root, call.arguments[0])
    process = process_of(call, container)
    if call.on("detach") or call.has("console-socket"):
        execute(
            call.root,
            container.id,
            process,
            console_socket=call.value("console-socket"),
            pid_file=call.value("pid-file"),
            preserve_fds=call.number("preserve-fds"),
            ignore_paused=call.on("ignore-paused"),
            cgroups=call.all("cgroup"),
        )
        return 0
    processes.set_child_subreaper()
    launch = prepare(container, process, call.number("preserve-fds"), ignore_paused=call.on("ignore-paused"))
    launch.cgroup = below(launch.cgroup, call.all("cgroup"))
    if not process.get("terminal"):
        return _stay(call, launch)
    from longshore.oci import terminal as terminals

    with terminals.Relay() as relay:
        launch.console = relay.connection
        return _stay(call, launch, relay)


def _stay(call: Call, launch: Exec, relay: terminal.Relay | None = None) -> int:
    from longshore.oci import foreground

    companion = foreground.Companion()
    return companion.wait(begin(launch, call.value("pid-file")), relay)


def process_of(call: Call, container: State) -> dict[str, Any]:
    """The process object of a command line: from --process, else the container's own with the flags' changes."""
    if call.has("process"):
        try:
            found = codec.loads(files.read_bounded(call.value("process"), 16 << 20))
        except OSError as error:
            raise RuntimeFailure(f"open {call.value('process')}: {(error.strerror or '').lower()}") from None
        except ValueError as error:
            raise RuntimeFailure(f"{call.value('process')}: {error}") from None
        if not isinstance(found, dict):
            raise RuntimeFailure(f"{call.value('process')}: not an object")
        return found
    if len(call.arguments) < 2:
        raise RuntimeFailure("process args cannot be empty")
    process: dict[str, Any] = dict(configuration.load(container.bundle)["process"])
    process["args"] = call.arguments[1:]
    process["terminal"] = call.on("tty")
    process["env"] = [*(process.get("env") or ()), *call.all("env")]
    if call.has("cwd"):
        process["cwd"] = call.value("cwd")
    if call.has("no-new-privs"):
        process["noNewPrivileges"] = call.on("no-new-privs")
    for flag, key in (("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if call.has(flag):
            process[key] = call.value(flag)
    _set_user(call, process)
    _add_capabilities(call, process)
    return process


def _set_user(call: Call, process: dict[str, Any]) -> None:
    user = dict(process.get("user") or {})
    if call.has("user"):
        uid, colon, gid = call.value("user").partition(":")
        user["uid"] = _id("uid", uid)
        if colon:
            user["gid"] = _id("gid", gid)
    if call.has("additional-gids"):
        more = [
            number("additional-gids", word)
            for words in call.all("additional-gids")
            for word in words.split(",")
        ]
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *more]
    process["user"] = user


def _id(what: str, text: str) -> int:
    try:
        return number("user", text)
    except UsageError:
        raise RuntimeFailure(f"parsing {text} as int for {what} failed: invalid syntax") from None


def _add_capabilities(call: Call, process: dict[str, Any]) -> None:
    if not call.has("cap"):
        return
    sets = {key: list(names or ()) for key, names in (process.get("capabilities") or {}).items()}
    for key in ("bounding", "effective", "permitted"):
        sets[key] = [*sets.get(key, ()), *call.all("cap")]
    process["capabilities"] = sets
