"""Reading and checking config.json: what can be refused is refused before anything is touched."""

from __future__ import annotations

import os

from longshore.linux import files
from longshore.oci import codec, shape
from longshore.oci.errors import InvalidConfig, RuntimeFailure
from longshore.oci.state import HOOK_KINDS as KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIMIT = 64 << 20
OCI_VERSION = "1.2.0"


def load(bundle: str) -> dict[str, Any]:
    """config.json of a bundle, checked. InvalidConfig and RuntimeFailure say what is wrong."""
    path = f"{bundle}/config.json"
    try:
        data = files.read_bounded(path, _LIMIT)
    except FileNotFoundError:
        if not os.path.isdir(bundle):
            raise RuntimeFailure(f"chdir {bundle}: no such file or directory") from None
        raise RuntimeFailure("JSON specification file config.json not found") from None
    try:
        config = codec.loads(data)
    except ValueError as error:
        raise InvalidConfig(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise InvalidConfig(f"{path}: not an object")
    check_shape(config, shape.CONFIG, "config")
    check(config)
    return config


def check_shape(value: Any, expected: Any, name: str) -> None:
    """InvalidConfig if something in a document is of another kind than the specification has it."""
    found = shape.misfit(value, expected)
    if found:
        raise InvalidConfig(f"{name}{found}")


def check(config: dict[str, Any]) -> None:
    """InvalidConfig unless the configuration can be run; sysctls and namespaces must fit together."""
    process = config.get("process")
    if not isinstance(process, dict):
        raise InvalidConfig("process property must not be empty")
    check_process(process)
    if not isinstance(config.get("root"), dict):
        raise InvalidConfig("root must be specified")
    linux = config.get("linux") or {}
    names = {entry.get("type"): entry.get("path") or "" for entry in linux.get("namespaces") or ()}
    _check_namespaces(config, linux, names)
    for key in linux.get("sysctl") or {}:
        _check_sysctl(key, names)
    _check_hooks(config.get("hooks") or {})
    _check_unsupported(linux)


def _check_hooks(hooks: dict[str, Any]) -> None:
    # Kinds that we don't know are properties that we don't know: ignored.
    for kind in KINDS:
        for hook in hooks.get(kind) or ():
            if not (hook.get("path") or "").startswith("/"):
                raise InvalidConfig(f"{kind} hook path {hook.get('path')!r} is not absolute")
            timeout = hook.get("timeout")
            if timeout is not None and timeout <= 0:
                raise InvalidConfig(f"{kind} hook timeout {timeout} is not greater than zero")


def check_process(process: dict[str, Any]) -> None:
    """InvalidConfig unless a ``process`` object can be executed."""
    cwd = process.get("cwd") or ""
    if not cwd:
        raise InvalidConfig("Cwd property must not be empty")
    if not cwd.startswith("/"):
        raise InvalidConfig("Cwd must be an absolute path")
    if not process.get("args"):
        raise InvalidConfig("args must not be empty")
    for word in [*process["args"], *(process.get("env") or ()), cwd]:
        if not isinstance(word, str) or "\0" in word:
            raise InvalidConfig("invalid argument, environment or cwd: not a string, or a null byte in it")
    _check_user(process.get("user") or {})
    _check_lsm(process)


# The kernel's word for "leave it as it is", which setresuid would take for root staying root.
_NO_ID = 2**32 - 1


def _check_user(user: dict[str, Any]) -> None:
    for key in ("uid", "gid"):
        _check_id(key, user.get(key) or 0)
    for group in user.get("additionalGids") or ():
        _check_id("additionalGids", group)


def _check_id(key: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value < _NO_ID:
        raise InvalidConfig(f"process.user.{key} {value!r} is no id")


def _check_lsm(process: dict[str, Any]) -> None:
    # Asked for and not there is an error, never ignored: the caller believes in the confinement.
    if process.get("apparmorProfile") and not apparmor_enabled():
        raise InvalidConfig("apparmor profile specified but apparmor is not enabled on this host")
    if process.get("selinuxLabel") and not selinux_enabled():
        raise InvalidConfig("selinux label is specified in config, but selinux is disabled or not supported")


def apparmor_enabled() -> bool:
    """Whether the kernel confines by AppArmor."""
    try:
        return files.read_bounded("/sys/module/apparmor/parameters/enabled")[:1] == b"Y"
    except OSError:
        return False


def selinux_enabled() -> bool:
    """Whether the kernel has SELinux."""
    return os.path.exists("/sys/fs/selinux/enforce")


def _check_namespaces(config: dict[str, Any], linux: dict[str, Any], names: dict[Any, str]) -> None:
    if config.get("hostname") and "uts" not in names:
        raise InvalidConfig("unable to set hostname without a private UTS namespace")
    if config.get("domainname") and "uts" not in names:
        raise InvalidConfig("unable to set domainname without a private UTS namespace")
    if (linux.get("maskedPaths") or linux.get("readonlyPaths")) and "mount" not in names:
        raise InvalidConfig("unable to restrict sys entries without a private MNT namespace")
    if config.get("mounts") and "mount" not in names:
        raise InvalidConfig("mounts need a private MNT namespace")
    mappings = linux.get("uidMappings") or linux.get("gidMappings")
    if mappings and "user" not in names:
        raise InvalidConfig(
            "User namespace mappings specified, but USER namespace isn't enabled in the config"
        )
    if "user" in names and not names["user"]:
        for key, word in (("uidMappings", "uid"), ("gidMappings", "gid")):
            if not linux.get(key):
                raise InvalidConfig(f"{word}_map is needed for a new user namespace")
    if linux.get("timeOffsets") and "time" not in names:
        raise InvalidConfig("time offsets need a private TIME namespace")


_IPC_SYSCTLS = frozenset(
    "kernel." + name
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def _check_sysctl(key: str, names: dict[Any, str]) -> None:
    dotted = (
        key.replace("/", ".") if "/" in key and ("." not in key or key.index("/") < key.index(".")) else key
    )
    if ".." in key.split("/"):
        raise InvalidConfig(f'sysctl "{key}" is not in a separate kernel namespace')
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        if "ipc" not in names:
            raise InvalidConfig(f'sysctl "{key}" is not allowed in the hosts ipc namespace')
    elif dotted.startswith("net."):
        if "network" not in names:
            raise InvalidConfig(f'sysctl "{key}" not allowed in host network namespace')
        if names["network"] and os.path.exists(names["network"]) and _is_ours(names["network"]):
            raise InvalidConfig(f'sysctl "{key}" not allowed in host network namespace')
    elif dotted.startswith("user."):
        if "user" not in names:
            raise InvalidConfig(f'sysctl "{key}" is not in a separate user namespace')
    elif dotted == "kernel.domainname":
        if "uts" not in names:
            raise InvalidConfig(f'sysctl "{key}" is not allowed without a UTS namespace')
    elif dotted == "kernel.hostname":
        raise InvalidConfig(f'sysctl "{key}" is not allowed as it conflicts with the OCI "hostname" field')
    else:
        raise InvalidConfig(f'sysctl "{key}" is not in a separate kernel namespace')


def _is_ours(path: str) -> bool:
    theirs, ours = os.stat(path), os.stat("/proc/self/ns/net")
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def _check_unsupported(linux: dict[str, Any]) -> None:
    _check_rdt(linux.get("intelRdt") or {})
    for key in ("memoryPolicy", "netDevices"):
        if linux.get(key):
            raise InvalidConfig(f"{key} is not supported")
    if linux.get("mountLabel"):
        # With SELinux, too: its labels of processes are applied, those of mounts aren't.
        raise InvalidConfig("mount label is specified in config, but selinux is disabled or not supported")


def _check_rdt(wanted: dict[str, Any]) -> None:
    for key, feature in (("l3CacheSchema", "CAT"), ("memBwSchema", "MBA")):
        if wanted.get(key):
            raise InvalidConfig(
                f"intelRdt.{key} is specified in config, but Intel RDT/{feature} is not enabled"
            )
    if wanted:
        raise InvalidConfig("intelRdt is specified in config, but Intel RDT is not supported or enabled")


def rootfs_path(config: dict[str, Any], bundle: str) -> str:
    """The root file system as an absolute path; InvalidConfig if it is a link or missing."""
    path = (config.get("root") or {}).get("path") or ""
    path = os.path.normpath(os.path.join(bundle, path))
    if not os.path.isdir(path):
        raise InvalidConfig(f"invalid rootfs: stat {path}: no such file or directory")
    if os.path.realpath(path) != path:
        raise InvalidConfig("invalid rootfs: not an absolute path, or a symlink")
    if path == "/":
        raise InvalidConfig("invalid rootfs: it can't be /")
    return path


def time_offsets(linux: dict[str, Any]) -> str:
    """What to write to timens_offsets."""
    lines = []
    for clock, offset in (linux.get("timeOffsets") or {}).items():
        if clock not in ("monotonic", "boottime"):
            raise InvalidConfig(f"time offset of clock {clock} is not supported")
        lines.append(f"{clock} {offset.get('secs') or 0} {offset.get('nanosecs') or 0}\n")
    return "".join(lines)


def id_map(mappings: Any) -> str:
    """uidMappings or gidMappings as the kernel's map."""
    return "".join(
        f"{entry.get('containerID') or 0} {entry.get('hostID') or 0} {entry.get('size') or 0}\n"
        for entry in mappings or ()
    )
