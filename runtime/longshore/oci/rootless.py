"""Containers of users who aren't root: what they may ask for, and whether ours is one.

Such a container needs a user namespace; in it its user is root over what the
user may do anyway. What only the host's root could open or set (descriptors of
mounts before the fork, device rules, other people's cgroups) is left to the
container's process, or out.
"""

from __future__ import annotations

import os

from longshore.linux import files
from longshore.oci.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WHOLE = [b"0", b"0", b"4294967295"]  # the id map of the first user namespace
_choice = ""


def choose(word: str) -> None:
    """What --rootless says: "true", "false", or anything else for "look who we are"."""
    global _choice
    _choice = word


def unprivileged() -> bool:
    """Whether we are an ordinary user, here and now."""
    return os.geteuid() != 0


def wanted(nested: bool) -> bool:
    """Whether cgroups that can't be made are left out: for users, and for the root of a user namespace."""
    if _choice in ("true", "false"):
        return _choice == "true"
    return nested or unprivileged()


def nested() -> bool:
    """Whether we are in a user namespace, where even root makes no device nodes."""
    try:
        return files.read_bounded("/proc/self/uid_map").split() != _WHOLE
    except FileNotFoundError:
        return False


def may_set_groups(nested: bool) -> bool:
    """Whether a container's process may choose its groups: a user's may not, nor what is below such a one."""
    if unprivileged():
        return False
    return not nested or files.read_bounded("/proc/self/setgroups").strip() != b"deny"


def check(config: dict[str, Any]) -> None:
    """InvalidConfig unless an ordinary user can make this container."""
    linux = config.get("linux") or {}
    new = [entry for entry in linux.get("namespaces") or () if entry.get("type") == "user"]
    if not new:
        raise InvalidConfig("rootless container requires user namespaces")
    if not new[0].get("path"):
        for key, own in (("uidMappings", os.geteuid()), ("gidMappings", os.getegid())):
            mapping: list[dict[str, Any]] = linux.get(key) or []
            if len(mapping) != 1 or mapping[0].get("hostID") != own or mapping[0].get("size") != 1:
                # newuidmap(1) could map more, and isn't used.
                raise InvalidConfig(f"rootless containers can map only the caller's own id: {key} {own}")
    if ((config.get("process") or {}).get("user") or {}).get("additionalGids"):
        raise InvalidConfig("cannot set any additional groups in a rootless container")
