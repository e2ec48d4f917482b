"""The process of a container: its words, its environment, who it is, what it may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from longshore.api.errors import InvalidArgument, NotFound
from longshore.client import users
from longshore.client.spec import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    DEFAULT_PATH,
    merge_env,
    own_capabilities,
)
from longshore.dockerd.records import Container, HostConfig, Ulimit
from longshore.dockerd.spec.settings import Place, Settings
from longshore.init import native

INIT_TARGET: Final = "/sbin/docker-init"


def make(container: Container, place: Place, *, no_new_privileges: bool, apparmor: str) -> dict[str, Any]:
    """The member `process` of a specification."""
    host, config = container.host_config, container.config
    user = user_of(config.user, host.group_add or (), place.layers)
    process: dict[str, Any] = {
        "terminal": config.tty,
        "user": user,
        "args": _args(container, place.settings),
        "env": _environment(container, place),
        "cwd": config.working_dir or "/",
        "capabilities": _sets(capabilities(host), root=user["uid"] == 0),
        "rlimits": _limits(host, place.settings),
        "noNewPrivileges": no_new_privileges,
        "oomScoreAdj": host.oom_score_adj,
    }
    if config.tty and host.console_size and any(host.console_size):
        process["consoleSize"] = dict(zip(("height", "width"), host.console_size, strict=False))
    if apparmor and not host.privileged:
        process["apparmorProfile"] = apparmor
    return process


def wants_init(host: HostConfig, settings: Settings) -> bool:
    """Whether docker-init is PID 1: only where there is a PID namespace of the container's own."""
    wanted = settings.init if host.init is None else host.init
    return wanted and not host.pid_mode.startswith(("host", "container:"))


def init_path(settings: Settings) -> str:
    """docker-init on this host: the one that was named, else ours, else an installed one. Raises NotFound."""
    if settings.init_path:
        return settings.init_path
    try:
        return native.path()
    except native.Missing as error:
        raise NotFound(str(error)) from None


def _args(container: Container, settings: Settings) -> list[str]:
    words = [container.path, *container.args]
    if wants_init(container.host_config, settings):
        return [INIT_TARGET, "--", *words]
    return words


def _environment(container: Container, place: Place) -> list[str]:
    config = container.config
    given = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={config.hostname}"]
    if config.tty:
        given.append("TERM=xterm")
    return merge_env([*given, *place.environment], config.env or ())


def user_of(name: str, groups: Sequence[str], layers: Sequence[str]) -> dict[str, Any]:
    """The specification's `user`. Raises InvalidArgument, in the original's words, for a name nobody knows."""
    passwd = users.read_file(layers, "etc/passwd") if layers else b""
    group = users.read_file(layers, "etc/group") if layers else b""
    try:
        user = users.resolve(name or "0", passwd, group)
    except NotFound as error:
        kind = "group" if "/etc/group" in str(error) else "user"
        word = name.partition(":")[2] if kind == "group" else name.partition(":")[0]
        raise InvalidArgument(_unknown(kind, word)) from error
    more = [_group(word, group) for word in groups]
    gids = list(dict.fromkeys([user.gid, *user.additional_gids, *more]))
    return {"uid": user.uid, "gid": user.gid, "additionalGids": gids}


def _group(name: str, table: bytes) -> int:
    try:
        return users.resolve(f"0:{name}", b"", table).gid
    except NotFound as error:
        raise InvalidArgument(f"Unable to find group {name}: no matching entries in group file") from error


def _unknown(kind: str, word: str) -> str:
    table = "passwd" if kind == "user" else "group"
    return f"unable to find {kind} {word}: no matching entries in {table} file"


def capabilities(host: HostConfig) -> list[str]:
    """What the container holds: the 14 of every container, more and fewer as asked, or all that we have.

    Raises InvalidArgument for a name that doesn't exist.
    """
    if host.privileged:
        return own_capabilities()
    added = [normalised(name, "CapAdd") for name in host.cap_add or ()]
    dropped = {normalised(name, "CapDrop") for name in host.cap_drop or ()}
    everything = own_capabilities() if "ALL" in added else []
    if "ALL" in added:
        return [name for name in everything if name not in dropped]
    base = () if "ALL" in dropped else DEFAULT_CAPABILITIES
    kept = [name for name in base if name not in dropped]
    return list(dict.fromkeys([*kept, *added]))


def normalised(name: str, member: str) -> str:
    """CAP_NAME or ALL. Raises InvalidArgument, which names the `member` of HostConfig."""
    upper = name.strip().upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in ALL_CAPABILITIES:
        raise InvalidArgument(f'invalid {member}: unknown capability: "{full}"')
    return full


def _sets(names: list[str], *, root: bool) -> dict[str, list[str]]:
    """A user other than root gets none until it executes a file that has some, as execve itself would have it."""
    kinds = ("bounding", "effective", "permitted") if root else ("bounding",)
    return {kind: list(names) for kind in kinds}


def _limits(host: HostConfig, settings: Settings) -> list[dict[str, Any]]:
    limits: dict[str, Ulimit] = dict(settings.ulimits)
    limits |= {limit.name: limit for limit in host.ulimits or ()}
    return [
        {"type": f"RLIMIT_{name.upper()}", "hard": _unsigned(limit.hard), "soft": _unsigned(limit.soft)}
        for name, limit in limits.items()
    ]


def _unsigned(value: int) -> int:
    """-1 is without a limit."""
    return value & 0xFFFFFFFFFFFFFFFF
