"""What kind of thing stands where in config.json: an empty list for an object would pass for "nothing asked for".

Fields that aren't here are not ours, and may be anything. null is the same as absent.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A type; a list of one shape; an object with shapes by name, or with "*" one shape for whatever name.
_STRINGS: dict[str, Any] = {"*": str}
_HOOKS = [{"path": str, "args": [str], "env": [str], "timeout": int}]
_IDS = [{"containerID": int, "hostID": int, "size": int}]
_OFFSET = {"secs": int, "nanosecs": int}
_WEIGHTS = [{"major": int, "minor": int, "weight": int, "leafWeight": int}]
_RATES = [{"major": int, "minor": int, "rate": int}]
RESOURCES: dict[str, Any] = {
    "devices": [{"allow": bool, "type": str, "major": int, "minor": int, "access": str}],
    "memory": {
        **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP", "swappiness"), int),
        **dict.fromkeys(("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"), bool),
    },
    "cpu": {
        **dict.fromkeys(
            ("shares", "quota", "burst", "period", "realtimeRuntime", "realtimePeriod", "idle"), int
        ),
        "cpus": str,
        "mems": str,
    },
    "pids": {"limit": int},
    "blockIO": {
        "weight": int,
        "leafWeight": int,
        "weightDevice": _WEIGHTS,
        **{f"throttle{which}Device": _RATES for which in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")},
    },
    "hugepageLimits": [{"pageSize": str, "limit": int}],
    "network": {"classID": int, "priorities": [{"name": str, "priority": int}]},
    "rdma": {"*": {"hcaHandles": int, "hcaObjects": int}},
    "unified": _STRINGS,
}
PROCESS: dict[str, Any] = {
    "terminal": bool,
    "consoleSize": {"height": int, "width": int},
    "user": {"uid": int, "gid": int, "umask": int, "additionalGids": [int], "username": str},
    "args": [str],
    "env": [str],
    "cwd": str,
    "capabilities": {"*": [str]},
    "rlimits": [{"type": str, "soft": int, "hard": int}],
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "oomScoreAdj": int,
    "selinuxLabel": str,
    "scheduler": {
        "policy": str,
        "flags": [str],
        **dict.fromkeys(("nice", "priority", "runtime", "deadline", "period"), int),
    },
    "ioPriority": {"class": str, "priority": int},
    "execCPUAffinity": {"initial": str, "final": str},
}
_SECCOMP: dict[str, Any] = {
    **dict.fromkeys(("defaultAction", "listenerPath", "listenerMetadata"), str),
    "defaultErrnoRet": int,
    "architectures": [str],
    "flags": [str],
    "syscalls": [
        {
            "names": [str],
            "action": str,
            "errnoRet": int,
            "args": [{"index": int, "value": int, "valueTwo": int, "op": str}],
        }
    ],
}
CONFIG: dict[str, Any] = {
    "ociVersion": str,
    "process": PROCESS,
    "root": {"path": str, "readonly": bool},
    "hostname": str,
    "domainname": str,
    "mounts": [
        {
            "destination": str,
            "type": str,
            "source": str,
            "options": [str],
            "uidMappings": _IDS,
            "gidMappings": _IDS,
        }
    ],
    "hooks": {"*": _HOOKS},
    "annotations": _STRINGS,
    "linux": {
        "uidMappings": _IDS,
        "gidMappings": _IDS,
        "sysctl": _STRINGS,
        "resources": RESOURCES,
        "cgroupsPath": str,
        "namespaces": [{"type": str, "path": str}],
        "devices": [
            {"path": str, "type": str, **dict.fromkeys(("major", "minor", "fileMode", "uid", "gid"), int)}
        ],
        "seccomp": _SECCOMP,
        "rootfsPropagation": str,
        "maskedPaths": [str],
        "readonlyPaths": [str],
        "mountLabel": str,
        "intelRdt": {"closID": str, "l3CacheSchema": str, "memBwSchema": str},
        "personality": {"domain": str, "flags": [str]},
        "timeOffsets": {"monotonic": _OFFSET, "boottime": _OFFSET},
    },
}
_WORDS = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "an object"}


def misfit(value: Any, shape: Any) -> str:
    """Where a value isn't of a shape, and what it should be there (".process.cwd is not a string"), or ""."""
    kind: type = shape if type(shape) is type else type(shape)
    if type(value) is not kind:
        return f" is not {_WORDS[kind]}"
    if isinstance(value, dict):
        every = shape.get("*")
        for key, below in value.items():
            inner = every or shape.get(key)
            if inner is not None and below is not None and (found := misfit(below, inner)):
                return f".{key}{found}"
    elif isinstance(value, list):
        (inner,) = shape
        for number, below in enumerate(value):
            if type(below) is not inner and (found := misfit(below, inner)):
                return f"[{number}]{found}"
    return ""
