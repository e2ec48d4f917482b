"""spec: a config.json to start from."""

from __future__ import annotations

import os

from longshore.oci import codec, config
from longshore.oci.cli import BOOL, VALUE
from longshore.oci.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from longshore.oci.cli import Call

FLAGS = {"bundle b": VALUE, "rootless": BOOL}
ARGUMENTS = (0, 0)
_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def _mount(destination: str, fstype: str, source: str, *options: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"destination": destination, "type": fstype, "source": source}
    if options:
        entry["options"] = list(options)
    return entry


def example() -> dict[str, Any]:
    """A configuration that runs ``sh`` on a terminal, with everything private but the user namespace."""
    hardened = ("nosuid", "noexec", "nodev")
    devpts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    return {
        "ociVersion": config.OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {key: list(_CAPABILITIES) for key in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runc",
        "mounts": [
            _mount("/proc", "proc", "proc"),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "devpts", *devpts),
            _mount("/dev/shm", "tmpfs", "shm", *hardened, "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", *hardened),
            _mount("/sys", "sysfs", "sysfs", *hardened, "ro"),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", *hardened, "relatime", "ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def rootless(config: dict[str, Any]) -> dict[str, Any]:
    """The same for a user without rights: a user namespace of one id, the host's network and /sys, no limits."""
    linux = config["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    del linux["resources"]
    for entry in config["mounts"]:
        if entry["destination"] == "/sys":
            entry |= {"type": "none", "source": "/sys", "options": ["rbind", *entry["options"]]}
        entry["options"] = [
            word for word in entry.get("options", ()) if not word.startswith(("uid=", "gid="))
        ]
        if not entry["options"]:
            del entry["options"]
    return config


def main(call: Call) -> int:
    """``runc spec [--bundle DIR] [--rootless]``"""
    path = os.path.join(call.value("bundle", "."), "config.json")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise RuntimeFailure("File config.json exists. Remove it first") from None
    try:
        os.write(
            fd, codec.dumps(rootless(example()) if call.on("rootless") else example(), "\t").encode() + b"\n"
        )
    finally:
        os.close(fd)
    return 0
