"""What `--security-opt` and `--privileged` change: seccomp, AppArmor, labels, masked paths, new privileges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from longshore.api.errors import InvalidArgument
from longshore.client.seccomp import default_profile
from longshore.client.spec import READONLY_PATHS
from longshore.dockerd.records import HostConfig
from longshore.dockerd.spec import seccomp
from longshore.dockerd.spec.settings import Settings

MASKED_PATHS: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)


class Options(NamedTuple):
    """`--security-opt`, read."""

    seccomp: str = ""
    """"" is the built-in profile, "unconfined" none, everything else a profile in JSON."""
    apparmor: str = ""
    no_new_privileges: bool = False
    labels: tuple[str, ...] = ()
    writable_cgroups: bool = False
    unmasked: bool = False


def parse(words: Sequence[str], settings: Settings | None = None) -> Options:
    """Both ``key=value`` and the older ``key:value``. Raises InvalidArgument with the original's words."""
    settings = settings or Settings()
    found = Options(seccomp=_daemons(settings), no_new_privileges=settings.no_new_privileges)
    for word in words:
        found = _one(found, word)
    return found


def _daemons(settings: Settings) -> str:
    path = settings.seccomp_profile
    if path in ("", "builtin", "unconfined"):
        return "" if path == "builtin" else path
    with open(path) as file:
        return file.read()


def _one(options: Options, word: str) -> Options:
    if word in ("no-new-privileges", "disable"):
        return options._replace(no_new_privileges=True) if word != "disable" else options
    separator = "=" if "=" in word else ":"
    key, found, value = word.partition(separator)
    if not found:
        raise InvalidArgument(f"invalid --security-opt 1: {word!r}".replace("'", '"'))
    if key == "seccomp":
        return options._replace(seccomp="" if value == "builtin" else value)
    if key == "apparmor":
        return options._replace(apparmor="" if value == "unconfined" else value)
    if key == "label":
        return options._replace(labels=(*options.labels, value))
    if key == "no-new-privileges":
        return options._replace(no_new_privileges=_boolean(word, value))
    if key == "writable-cgroups":
        return options._replace(writable_cgroups=_boolean(word, value))
    if key == "systempaths" and value == "unconfined":
        return options._replace(unmasked=True)
    raise InvalidArgument(f"invalid --security-opt 2: {word!r}".replace("'", '"'))


def _boolean(word: str, value: str) -> bool:
    known = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
    if value.lower() not in known:
        raise InvalidArgument(f"invalid --security-opt 2: {word!r}".replace("'", '"'))
    return known[value.lower()]


def paths(host: HostConfig, options: Options) -> dict[str, Any]:
    """Members of `linux`: what nobody in the container may see, and what nobody may change."""
    if host.privileged:
        return {}
    masked = MASKED_PATHS if host.masked_paths is None else host.masked_paths
    readonly = READONLY_PATHS if host.readonly_paths is None else host.readonly_paths
    return {"maskedPaths": list(masked), "readonlyPaths": list(readonly)}


def filter_of(host: HostConfig, options: Options, capabilities: Collection[str]) -> dict[str, Any]:
    """The member `seccomp` of `linux`, if there is to be one."""
    if options.seccomp == "unconfined" or (host.privileged and not options.seccomp):
        return {}
    if not options.seccomp:
        return {"seccomp": default_profile(capabilities)}
    try:
        profile = msgspec.json.decode(options.seccomp, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from error
    return {"seccomp": seccomp.convert(profile, capabilities)}
