"""Device nodes of the host in a container, and what its cgroup lets it do with them."""

from __future__ import annotations

import os
import re
import stat
from typing import Any, Final

from longshore.api.errors import InvalidArgument
from longshore.client.spec import host_devices
from longshore.dockerd.errors import ServerError
from longshore.dockerd.records import DeviceMapping, HostConfig

# null, zero, full, random, urandom, tty and console; the runtime adds ptmx and the terminals. FUSE is named because
# a default that allowed it would let the container mount.
_DEFAULTS: Final = (
    (False, "", None, None),
    *((True, "c", major, minor) for major, minor in ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))),
    (False, "c", 10, 229),
)
_RULE: Final = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")


def rules(host: HostConfig) -> list[dict[str, Any]]:
    """Of the cgroup, in order: the last one that matches decides."""
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    found = [_rule(*row) for row in _DEFAULTS]
    for mapping in host.devices or ():
        access = mapping.cgroup_permissions or "rwm"
        found += [
            _rule(True, node["type"], node["major"], node["minor"], access) for node in _mapped(mapping)
        ]
    return [*found, *(parse_rule(text) for text in host.device_cgroup_rules or ())]


def _rule(
    allow: bool, kind: str, major: int | None, minor: int | None, access: str = "rwm"
) -> dict[str, Any]:
    members = {"type": kind or None, "major": major, "minor": minor}
    return {
        "allow": allow,
        **{key: value for key, value in members.items() if value is not None},
        "access": access,
    }


def parse_rule(text: str) -> dict[str, Any]:
    """``c 1:3 rwm``, ``a *:* rm``. Raises InvalidArgument."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    first, second = (None if word == "*" else int(word) for word in (major, minor))
    return _rule(True, kind, first, second, access)


def nodes(host: HostConfig) -> list[dict[str, Any]]:
    """To be made below the container's /dev; raises ServerError where the host hasn't one."""
    for request in host.device_requests or ():
        kinds = " ".join("[" + " ".join(words) + "]" for words in request.capabilities or ())
        raise ServerError(f'could not select device driver "{request.driver}" with capabilities: [{kinds}]')
    mapped = [node for mapping in host.devices or () for node in _mapped(mapping)]
    if not host.privileged:
        return mapped
    # A terminal of this process isn't the container's, whose console the runtime mounts.
    every = [_node(path, path) for path in host_devices()]
    taken = {node["path"] for node in mapped}
    return [*(node for node in every if node["path"] not in taken), *mapped]


def _mapped(mapping: DeviceMapping) -> list[dict[str, Any]]:
    source, target = mapping.path_on_host, mapping.path_in_container or mapping.path_on_host
    if not os.path.isdir(source):
        return [_node(source, target)]
    real = os.path.realpath(source)
    return [_node(path, target.rstrip("/") + path.removeprefix(real)) for path in host_devices(real)]


def _node(source: str, target: str) -> dict[str, Any]:
    try:
        status = os.stat(source)
    except OSError as error:
        raise ServerError(_words(source, _go_words(error))) from error
    if not stat.S_ISCHR(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise ServerError(_words(source, "not a device node"))
    return {
        "path": target,
        "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def _words(path: str, why: str) -> str:
    return f'error gathering device information while adding custom device "{path}": {why}'


def _go_words(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
