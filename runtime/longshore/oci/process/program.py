"""From a set-up container to the user's program: user, capabilities, directory, limits, filter, execve.

Shared by init and exec. `resolve` runs with everything else before the
container is reported ready, so that a missing program is an error of create;
`execute` is the last thing a process of ours does.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` imports enum: 5 ms
import os
import stat

from longshore.linux import capabilities, libc, processes
from longshore.oci.errors import InvalidConfig, StartFailed
from longshore.oci.process import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
_EXECVE = {"x86_64": 59, "aarch64": 221}[libc.MACHINE]
_EXIT_GROUP = {"x86_64": 231, "aarch64": 94}[libc.MACHINE]
_WRITE = {"x86_64": 1, "aarch64": 64}[libc.MACHINE]
_EINVAL = 22
_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


class Identity:
    """Who the process will be, checked and as numbers; made in the runtime from the ``process`` object."""

    __slots__ = ("caps", "gid", "groups", "no_new_privs", "rlimits", "uid", "umask", "unknown")

    def __init__(self, process: dict[str, Any]) -> None:
        user = process.get("user") or {}
        self.uid: int = user.get("uid") or 0
        self.gid: int = user.get("gid") or 0
        self.groups: list[int] = list(dict.fromkeys(user.get("additionalGids") or ()))
        self.umask: int | None = user.get("umask")
        self.no_new_privs = bool(process.get("noNewPrivileges"))
        self.unknown: list[str] = []
        # None configured means none, not all.
        configured = process.get("capabilities") or {}
        self.caps: dict[str, int] = {}
        for name in _SETS:
            self.caps[name], unknown = capabilities.mask(configured.get(name) or ())
            self.unknown += [word for word in unknown if word not in self.unknown]
        self.rlimits = rlimits(process.get("rlimits") or ())


def rlimits(configured: Sequence[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """(resource, soft, hard) of process.rlimits; InvalidConfig on unknown or repeated names."""
    seen: dict[int, tuple[int, int, int]] = {}
    for limit in configured:
        number = RLIMITS.get(limit.get("type") or "")
        if number is None:
            raise InvalidConfig(f"wrong rlimit value: {limit.get('type')}")
        if number in seen:
            raise InvalidConfig(f"duplicated rlimit {limit['type']}")
        seen[number] = (number, limit.get("soft") or 0, limit.get("hard") or 0)
    return list(seen.values())


def get_rlimit(number: int, pid: int = 0) -> tuple[int, int]:
    """(soft, hard) of a process."""
    data = bytearray(16)
    libc.call("prlimit64", pid, number, 0, libc.buffer(data))
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")


def set_rlimit(number: int, soft: int, hard: int, pid: int = 0) -> None:
    """Set both limits (2^64-1: none)."""
    mask = 2**64 - 1
    value = (soft & mask).to_bytes(8, "little") + (hard & mask).to_bytes(8, "little")
    libc.call("prlimit64", pid, number, value, 0)


def raise_hard_limits(wanted: Sequence[tuple[int, int, int]], pid: int) -> None:
    """Give a process about to enter a user namespace the room it can't give itself there."""
    for number, _, hard in wanted:
        soft, current = get_rlimit(number, pid)
        if hard > current:
            set_rlimit(number, soft, hard, pid)


def apply_rlimits(wanted: Sequence[tuple[int, int, int]]) -> None:
    """Set the limits of this process."""
    for number, soft, hard in wanted:
        try:
            set_rlimit(number, soft, hard)
        except OSError as error:
            name = next(key for key, value in RLIMITS.items() if value == number)
            reason = (error.strerror or "").rpartition(": ")[2].lower()
            raise StartFailed(f"error setting rlimit {name} (soft {soft}, hard {hard}): {reason}") from None


def reset_signals() -> None:
    """Every signal to its default and none blocked: Python ignores SIGPIPE, the shim blocks what it reads by fd."""
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


class Program:
    """The user's program, ready to be executed: nothing here needs memory or files any more."""

    def __init__(self, path: str, arguments: Sequence[str], environment: Sequence[str]) -> None:
        self.path = os.fsencode(path)
        self._argv = [os.fsencode(word) for word in arguments]
        self._env = [os.fsencode(word) for word in environment]
        self.argv = libc.strings(self._argv)
        self.env = libc.strings(self._env)
        self._failures = {
            number: b"exec " + self.path + b": " + os.strerror(number).lower().encode() + b"\n"
            for number in range(1, 134)
        }

    def execute(self, filter: Any, caps: tuple[bytes, bytes, int]) -> None:
        """Load the filter, give up the last capabilities, execve. Returns never.

        Between the filter and execve there are three system calls at most, with
        arguments made before: the profile decides what else would be allowed.
        """
        raw, execve, path, argv, env, failures = (
            libc.raw,
            _EXECVE,
            self.path,
            self.argv,
            self.env,
            self._failures,
        )
        capset, prctl = libc.NR["capset"], libc.NR["prctl"]
        result = 0
        if filter is not None:
            result = filter()
        if result != -1:
            result = raw(capset, caps[0], caps[1])
            for number in range(64 if caps[2] else 0):
                if caps[2] >> number & 1:
                    raw(prctl, processes.PR_CAP_AMBIENT, 2, number, 0, 0)
        if result != -1:
            raw(execve, path, argv, env)
        message = failures.get(libc.errno(), b"exec failed\n")
        raw(_WRITE, 2, message, len(message))
        raw(_EXIT_GROUP, 1)
        os._exit(1)


def change_directory(cwd: str) -> bool:
    """chdir, False if this user may not enter; StartFailed otherwise, and if it leads outside the root.

    A descriptor that leaked into the container may name a directory of the host
    (/proc/self/fd/7): from there getcwd has no path to the root.
    """
    try:
        os.chdir(cwd)
    except PermissionError:
        return False
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise StartFailed(f'chdir to cwd ("{cwd}") set in config.json failed: {reason}') from None
    verify_directory()
    return True


def verify_directory() -> None:
    """StartFailed unless the current directory lies inside the root."""
    try:
        inside = os.getcwdb().startswith(b"/")
    except FileNotFoundError:
        inside = False
    if not inside:
        raise StartFailed(
            "current working directory is outside of container mount namespace root"
            " -- possible container breakout detected"
        )


def become(identity: Identity, cwd: str, *, setgroups: bool = True) -> None:
    """Change into the user: bounding set, groups, gid, uid, umask, directory. Permitted capabilities are kept."""
    capabilities.drop_bounding(identity.caps["bounding"])
    entered = change_directory(cwd)
    processes.prctl(processes.PR_SET_KEEPCAPS, 1)
    _own_stdio(identity.uid)
    if setgroups:
        os.setgroups(identity.groups)
    _set_ids(identity)
    if identity.umask is not None:
        os.umask(identity.umask)
    if not entered and not change_directory(cwd):
        raise StartFailed(f'chdir to cwd ("{cwd}") set in config.json failed: permission denied')
    processes.prctl(processes.PR_SET_KEEPCAPS, 0)
    if identity.uid != 0:
        # A change from uid 0 empties the effective set, but the permitted one was kept: use it until the end.
        _, permitted, inheritable = capabilities.get()
        capabilities.set(permitted, permitted, inheritable)


def _set_ids(identity: Identity) -> None:
    for what, change, number in (
        ("gid", os.setresgid, identity.gid),
        ("uid", os.setresuid, identity.uid),
    ):
        try:
            change(number, number, number)
        except OSError as error:
            if error.errno != _EINVAL:
                raise
            raise StartFailed(
                f"unable to setup user: cannot set {what} to unmapped user in user namespace"
            ) from None


def _own_stdio(uid: int) -> None:
    for fd in range(3):
        try:
            info = os.fstat(fd)
            if info.st_uid != uid and info.st_rdev != os.makedev(1, 3):
                os.fchown(fd, uid, -1)
        except OSError:
            continue  # a pipe of a foreign user namespace, a read-only file: as it is


def final_capabilities(identity: Identity) -> tuple[bytes, bytes, int]:
    """Arguments of the last capset, and the ambient set."""
    effective, permitted, inheritable = (
        identity.caps[name] for name in ("effective", "permitted", "inheritable")
    )
    # What we don't have we can't give (runc's rule, too: only a warning).
    _, have, _ = capabilities.get()
    permitted &= have
    effective &= permitted
    return *capabilities.pack(effective, permitted, inheritable), identity.caps[
        "ambient"
    ] & permitted & inheritable


def environment(process: dict[str, Any], uid: int, root: int) -> list[str]:
    """The program's environment: the last of equal names counts; HOME from passwd if it isn't given. StartFailed."""
    found: dict[str, str] = {}
    for word in process.get("env") or ():
        key, equals, value = word.partition("=")
        if not equals:
            raise StartFailed(f'invalid environment variable: "{word}"')
        if not key:
            raise StartFailed(f'environment variable name can\'t be empty: "{word}"')
        found.pop(key, None)
        found[key] = value
    if not found.get("HOME"):
        found["HOME"] = users.home(root, uid)
    return [f"{key}={value}" for key, value in found.items()]


def resolve(arguments: Sequence[str], environment: Sequence[str]) -> str:
    """The path to execute, by PATH of the container if the name has no slash; StartFailed with Go's words."""
    name = arguments[0]
    if "/" in name:
        try:
            info = os.stat(name)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise StartFailed(f'exec: "{name}": stat {name}: {reason}') from None
        # execve's own word for a folder too: dockerd makes exit status 126 of it, and 20.10 of nothing else.
        if stat.S_ISDIR(info.st_mode) or not os.access(name, os.X_OK, effective_ids=True):
            raise StartFailed(f'exec: "{name}": permission denied')
        return name
    path = next((word[5:] for word in environment if word.startswith("PATH=")), "")
    for directory in path.split(":") if name else ():
        candidate = f"{directory or '.'}/{name}"
        try:
            regular = stat.S_ISREG(os.stat(candidate).st_mode)
        except OSError:
            continue
        if regular and os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
    raise StartFailed(f'exec: "{name}": executable file not found in $PATH')
