"""What a container runs: an OCI runtime specification, built from options.

    spec.build("default", "web", with_args("httpd"), with_env({"A": "1"}), with_hostname("web"))

`default` is the spec that containerd's clients agree on (14 capabilities,
private namespaces, masked paths); an option is a function that edits it. An
option never does I/O: what it needs from an image or a root file system
comes in as an argument.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from longshore.api.errors import InvalidArgument

Spec: TypeAlias = dict[str, Any]
Option: TypeAlias = Callable[[Spec], None]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

# In the order of their numbers in linux/capability.h.
_CAPABILITY_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _CAPABILITY_NAMES.split())

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
)

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# (type, major, minor): the devices that every runtime makes, so their cgroup rule must allow them.
DEFAULT_DEVICES = (
    ("c", 1, 3),  # null
    ("c", 1, 8),  # random
    ("c", 1, 7),  # full
    ("c", 5, 0),  # tty
    ("c", 1, 5),  # zero
    ("c", 1, 9),  # urandom
    ("c", 5, 1),  # console
    ("c", 136, None),  # pts/*
    ("c", 5, 2),  # ptmx
)

NAMESPACE_TYPES = {
    "cgroup": "cgroup",
    "ipc": "ipc",
    "mnt": "mount",
    "mount": "mount",
    "net": "network",
    "network": "network",
    "pid": "pid",
    "time": "time",
    "user": "user",
    "uts": "uts",
}


def _mount(destination: str, type: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


def default_mounts() -> list[dict[str, Any]]:
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    ]


def unified_cgroups() -> bool:
    """Whether this machine's /sys/fs/cgroup is version 2."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def default(namespace: str, id: str) -> Spec:
    """The spec that every option edits. The cgroup is ``/<namespace>/<id>``; the root file system ``rootfs``."""
    namespaces = ["pid", "ipc", "uts", "mount", "network", *(["cgroup"] if unified_cgroups() else [])]
    capabilities = {kind: list(DEFAULT_CAPABILITIES) for kind in ("bounding", "effective", "permitted")}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [],
            "env": [f"PATH={DEFAULT_PATH}"],
            "cwd": "/",
            "capabilities": capabilities,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "mounts": default_mounts(),
        "linux": {
            "resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    *(_device_rule(*device) for device in DEFAULT_DEVICES),
                ]
            },
            "cgroupsPath": f"/{namespace}/{id}",
            "namespaces": [{"type": name} for name in namespaces],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }


def _device_rule(type: str, major: int, minor: int | None) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": type, "major": major, "access": "rwm"}
    if minor is not None:
        rule["minor"] = minor
    return rule


def build(namespace: str, id: str, *options: Option) -> Spec:
    """The default spec with the options applied in order."""
    spec = default(namespace, id)
    for option in options:
        option(spec)
    return spec


def encode(spec: Spec) -> bytes:
    """The JSON that travels to the daemon and becomes the bundle's config.json."""
    return json.dumps(spec, separators=(",", ":")).encode()


# Process.


def with_args(*args: str) -> Option:
    def edit(spec: Spec) -> None:
        spec["process"]["args"] = list(args)

    return edit


def merge_env(env: Sequence[str], changes: Iterable[str]) -> list[str]:
    """``NAME=value`` replaces or appends; a bare ``NAME`` removes."""
    merged = {entry.partition("=")[0]: entry for entry in env}
    for change in changes:
        name, equals, _ = change.partition("=")
        if equals:
            merged[name] = change
        else:
            merged.pop(name, None)
    return list(merged.values())


def with_env(env: Mapping[str, str] | Iterable[str]) -> Option:
    changes = [f"{name}={value}" for name, value in env.items()] if isinstance(env, Mapping) else list(env)

    def edit(spec: Spec) -> None:
        spec["process"]["env"] = merge_env(spec["process"].get("env", []), changes)

    return edit


def with_cwd(path: str) -> Option:
    def edit(spec: Spec) -> None:
        spec["process"]["cwd"] = path

    return edit


def with_tty(spec: Spec) -> None:
    """A terminal, and TERM in the environment."""
    spec["process"]["terminal"] = True
    with_env({"TERM": "xterm"})(spec)


def with_user(uid: int, gid: int = 0, additional_gids: Sequence[int] = ()) -> Option:
    """Numbers only; `longshore.client.users` turns names into them."""

    def edit(spec: Spec) -> None:
        user: dict[str, Any] = {"uid": uid, "gid": gid}
        if additional_gids:
            user["additionalGids"] = list(additional_gids)
        spec["process"]["user"] = user

    return edit


def with_rlimit(type: str, soft: int, hard: int | None = None) -> Option:
    """`type` like RLIMIT_NOFILE."""

    def edit(spec: Spec) -> None:
        limits = [limit for limit in spec["process"].get("rlimits", []) if limit["type"] != type]
        limits.append({"type": type, "soft": soft, "hard": soft if hard is None else hard})
        spec["process"]["rlimits"] = limits

    return edit


def capability(name: str) -> str:
    """The full upper-case name. Raises InvalidArgument for one that doesn't exist."""
    full = name.upper()
    full = full if full.startswith("CAP_") else f"CAP_{full}"
    if full not in ALL_CAPABILITIES:
        raise InvalidArgument(f"unknown capability {name!r}: invalid argument")
    return full


_CAPABILITY_SETS = ("bounding", "effective", "permitted")


def with_capabilities(names: Iterable[str]) -> Option:
    """Exactly these, in the bounding, effective and permitted sets."""
    exact = list(dict.fromkeys(capability(name) for name in names))

    def edit(spec: Spec) -> None:
        spec["process"]["capabilities"] = {kind: list(exact) for kind in _CAPABILITY_SETS}

    return edit


def with_added_capabilities(names: Iterable[str]) -> Option:
    """Also these; the word ALL stands for every one that this machine lets us hand out."""
    added = _capabilities(names, own_capabilities())

    def edit(spec: Spec) -> None:
        held = spec["process"].setdefault("capabilities", {})
        for kind in _CAPABILITY_SETS:
            held[kind] = list(dict.fromkeys([*held.get(kind, []), *added]))

    return edit


def with_dropped_capabilities(names: Iterable[str]) -> Option:
    """None of these, in any set; ALL stands for every one."""
    dropped = set(_capabilities(names, ALL_CAPABILITIES))

    def edit(spec: Spec) -> None:
        held = spec["process"].setdefault("capabilities", {})
        for kind in held:
            held[kind] = [name for name in held[kind] if name not in dropped]

    return edit


def _capabilities(names: Iterable[str], every: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        found += every if name.upper() == "ALL" else [capability(name)]
    return found


def with_new_privileges(spec: Spec) -> None:
    """Allow set-uid programs to gain privileges."""
    spec["process"]["noNewPrivileges"] = False


# File system.


def with_rootfs(path: str, *, readonly: bool = False) -> Option:
    """Run on a directory of the host instead of a snapshot."""

    def edit(spec: Spec) -> None:
        spec["root"] = {"path": os.path.abspath(path), **({"readonly": True} if readonly else {})}

    return edit


def with_readonly_root(spec: Spec) -> None:
    spec["root"]["readonly"] = True


def with_mount(
    source: str, destination: str, *, type: str = "bind", options: Sequence[str] = ("rbind", "rw")
) -> Option:
    """Add a mount; it replaces a default one with the same destination."""
    mount = _mount(destination, type, source, *options)

    def edit(spec: Spec) -> None:
        kept = [entry for entry in spec["mounts"] if entry["destination"] != destination]
        spec["mounts"] = [*kept, mount]

    return edit


# Below /dev, but the container's own or no devices.
_NOT_FROM_HOST = frozenset(("console", "fd", "mqueue", "pts", "shm", ".lxc", ".lxd-mounts", ".udev"))


def host_devices(directory: str = "/dev") -> list[str]:
    """The device nodes below a folder, without those that a container has of its own; sorted."""
    import stat

    found: list[str] = []
    for entry in os.scandir(directory):
        if entry.name in _NOT_FROM_HOST:
            continue
        if entry.is_dir(follow_symlinks=False):
            found += host_devices(entry.path)
            continue
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except FileNotFoundError:  # devices come and go
            continue
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            found.append(entry.path)
    return sorted(found)


def with_host_devices(spec: Spec) -> None:
    """Every device node of the host."""
    for path in host_devices():
        with_device(path)(spec)


def with_device(path: str, *, access: str = "rwm") -> Option:
    """A device node of the host under the same path, or all those below a folder. Raises InvalidArgument."""
    if os.path.isdir(path):
        edits = [with_device(found, access=access) for found in host_devices(path)]

        def edit_all(spec: Spec) -> None:
            for edit in edits:
                edit(spec)

        return edit_all
    return _with_node(path, access)


def _with_node(path: str, access: str) -> Option:
    import stat

    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InvalidArgument(f"no device {path}: invalid argument") from None
    if not stat.S_ISCHR(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"{path} is not a device: invalid argument")
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    mode = stat.S_IMODE(status.st_mode)
    node = {
        "path": path,
        "type": kind,
        "major": major,
        "minor": minor,
        "fileMode": mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }

    def edit(spec: Spec) -> None:
        spec["linux"].setdefault("devices", []).append(node)
        rule = {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
        spec["linux"]["resources"].setdefault("devices", []).append(rule)

    return edit


# Linux.


def with_namespace(type: str, path: str = "") -> Option:
    """Join the namespace at `path`, or have a new one. `type` as in the spec or in /proc/*/ns."""
    if type not in NAMESPACE_TYPES:
        raise InvalidArgument(f"unknown namespace {type!r}: invalid argument")
    name = NAMESPACE_TYPES[type]

    def edit(spec: Spec) -> None:
        kept = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != name]
        spec["linux"]["namespaces"] = [*kept, {"type": name, **({"path": path} if path else {})}]

    return edit


def without_namespace(type: str) -> Option:
    """Share the host's."""
    name = NAMESPACE_TYPES[type]

    def edit(spec: Spec) -> None:
        spec["linux"]["namespaces"] = [
            entry for entry in spec["linux"]["namespaces"] if entry["type"] != name
        ]

    return edit


def with_host_network(spec: Spec) -> None:
    """The host's network, and its name service files where the host has them."""
    without_namespace("network")(spec)
    for path in ("/etc/hosts", "/etc/resolv.conf"):
        if os.path.exists(path):
            with_mount(path, path, options=("rbind", "ro"))(spec)


def with_hostname(name: str) -> Option:
    def edit(spec: Spec) -> None:
        spec["hostname"] = name

    return edit


def with_cgroup(path: str) -> Option:
    """An empty path leaves the choice to the runtime."""

    def edit(spec: Spec) -> None:
        spec["linux"]["cgroupsPath"] = path

    return edit


def with_memory_limit(limit: int) -> Option:
    """In bytes."""

    def edit(spec: Spec) -> None:
        spec["linux"]["resources"].setdefault("memory", {})["limit"] = limit

    return edit


def with_cpu(**values: int | str) -> Option:
    """Keys of the spec's cpu object: shares, quota, period (microseconds), cpus and mems (lists like "0-2")."""

    def edit(spec: Spec) -> None:
        spec["linux"]["resources"].setdefault("cpu", {}).update(values)

    return edit


def with_cpus(count: float) -> Option:
    """At most so many processors' time."""
    return with_cpu(quota=int(count * 100_000), period=100_000)


def with_pids_limit(limit: int) -> Option:
    def edit(spec: Spec) -> None:
        spec["linux"]["resources"].setdefault("pids", {})["limit"] = limit

    return edit


def with_seccomp(profile: Mapping[str, Any]) -> Option:
    """A profile in the spec's own form (defaultAction, architectures, syscalls)."""

    def edit(spec: Spec) -> None:
        spec["linux"]["seccomp"] = dict(profile)

    return edit


def with_default_seccomp(spec: Spec) -> None:
    """The default profile (`longshore.client.seccomp`) for the capabilities held so far: apply it after those."""
    from longshore.client.seccomp import default_profile

    held = (spec["process"].get("capabilities") or {}).get("bounding", [])
    spec["linux"]["seccomp"] = default_profile(held)


def with_apparmor(profile: str) -> Option:
    def edit(spec: Spec) -> None:
        spec["process"]["apparmorProfile"] = profile

    return edit


def with_user_namespace(
    uid_maps: Sequence[tuple[int, int, int]], gid_maps: Sequence[tuple[int, int, int]]
) -> Option:
    """A user namespace with maps of (container id, host id, length)."""

    def maps(entries: Sequence[tuple[int, int, int]]) -> list[dict[str, int]]:
        return [{"containerID": inside, "hostID": host, "size": size} for inside, host, size in entries]

    def edit(spec: Spec) -> None:
        with_namespace("user")(spec)
        spec["linux"]["uidMappings"] = maps(uid_maps)
        spec["linux"]["gidMappings"] = maps(gid_maps)

    return edit


def own_capabilities() -> list[str]:
    """Those that this process may use: a runtime can't hand out more, and this machine may have withheld some."""
    with open("/proc/self/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return [name for number, name in enumerate(ALL_CAPABILITIES) if mask >> number & 1]


def with_rootfs_propagation(mode: str) -> Option:
    """How mounts travel between the container and the host: private, slave, shared or their r... forms."""
    if mode not in PROPAGATIONS:
        raise InvalidArgument(f"unknown propagation {mode!r}: invalid argument")

    def edit(spec: Spec) -> None:
        spec["linux"]["rootfsPropagation"] = mode

    return edit


PROPAGATIONS = frozenset(
    prefix + mode for prefix in ("", "r") for mode in ("private", "slave", "shared", "unbindable")
)


def with_rdt_class(name: str) -> Option:
    """A class of service of Intel's resource director (cache and memory bandwidth)."""

    def edit(spec: Spec) -> None:
        spec["linux"]["intelRdt"] = {"closID": name}

    return edit


def with_privileged(spec: Spec) -> None:
    """All our capabilities, any device allowed, a writable /sys, nothing masked, no seccomp, no AppArmor.

    The host's device nodes are another option: `with_host_devices`.
    """
    with_capabilities(own_capabilities())(spec)
    spec["process"].pop("apparmorProfile", None)
    with_new_privileges(spec)
    linux = spec["linux"]
    linux.pop("seccomp", None)
    linux["maskedPaths"] = []
    linux["readonlyPaths"] = []
    linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    for mount in spec["mounts"]:
        if mount["type"] in ("sysfs", "cgroup"):
            mount["options"] = ["rw" if option == "ro" else option for option in mount["options"]]


def with_annotations(annotations: Mapping[str, str]) -> Option:
    def edit(spec: Spec) -> None:
        spec.setdefault("annotations", {}).update(annotations)

    return edit


# Images.


def with_image_config(config: Mapping[str, Any], args: Sequence[str] = ()) -> Option:
    """Environment, command, working directory of an image; `args`, if any, replace its command.

    The image's user isn't looked at: it may be a name, which takes the root
    file system to resolve (`longshore.client.users`).
    """
    settings = config.get("config") or {}

    def edit(spec: Spec) -> None:
        process = spec["process"]
        process["env"] = merge_env(process.get("env", []), settings.get("Env") or [])
        process["cwd"] = settings.get("WorkingDir") or "/"
        process["args"] = [*(settings.get("Entrypoint") or []), *(args or settings.get("Cmd") or [])]
        if not process["args"]:
            raise InvalidArgument("no arguments specified: the image has no command: invalid argument")

    return edit
