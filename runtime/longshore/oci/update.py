"""update: change the limits of a container."""

from __future__ import annotations

from longshore.linux import files
from longshore.oci import codec, log, shape, state
from longshore.oci.cli import VALUE, UsageError, number
from longshore.oci.errors import RuntimeFailure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from longshore.oci.cli import Call


def update(root: str, id: str, resources: dict[str, Any]) -> None:
    """Set the limits named in ``resources`` (linux.resources; devices are left alone); on failure set the old again."""
    found = shape.misfit(resources, shape.RESOURCES)
    if found:
        raise RuntimeFailure(f"resources{found}")
    container = state.load(root, id)
    container.require("update")
    cgroup = container.cgroup
    old = container.config["resources"]
    try:
        cgroup.apply(resources, device_rules=False)
    except (OSError, ValueError) as error:
        try:
            cgroup.apply(old, device_rules=False)
        except (OSError, ValueError) as second:
            log.write("warning", f"the old limits could not be set again: {explain(second)}")
        raise RuntimeFailure(explain(error)) from None
    container.config["resources"] = merged(old, resources)
    container.save()


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """``old`` with what ``new`` sets, controller by controller."""
    result = dict(old)
    for key, value in new.items():
        if key == "devices" or value is None:
            continue
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = {**result[key], **{name: each for name, each in value.items() if each is not None}}
        else:
            result[key] = value
    return result


_NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "pids-limit": ("pids", "limit"),
}
_WORDS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_BYTES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
}
_RDT = {
    "l3-cache-schema": "Intel RDT/CAT: l3 cache schema",
    "mem-bw-schema": "Intel RDT/MBA: memory bandwidth schema",
}
FLAGS = {"resources r": VALUE, **dict.fromkeys([*_NUMBERS, *_WORDS, *_BYTES, *_RDT], VALUE)}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc update [--resources FILE|-] [--memory BYTES] [--cpu-quota N] [--pids-limit N] ... ID``"""
    source = call.value("resources")
    for flag, what in _RDT.items():
        if call.value(flag):
            raise RuntimeFailure(f"{what} is not enabled")
    if source:
        try:
            data = files.read_fd(0, 16 << 20) if source == "-" else files.read_bounded(source, 16 << 20)
            resources = codec.loads(data)
        except OSError as error:
            raise RuntimeFailure(f"open {source}: {(error.strerror or '').lower()}") from None
        except ValueError as error:
            raise RuntimeFailure(str(error)) from None
    else:
        resources = _from_flags(call)
    update(call.root, call.arguments[0], resources)
    return 0


def _from_flags(call: Call) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for flag, (group, key) in _NUMBERS.items():
        if call.has(flag):
            try:
                resources.setdefault(group, {})[key] = call.number(flag)
            except UsageError:
                raise RuntimeFailure(f"invalid value for {flag}: {call.value(flag)!r} is no number") from None
    for flag, (group, key) in _WORDS.items():
        if call.has(flag):
            resources.setdefault(group, {})[key] = call.value(flag)
    for flag, (group, key) in _BYTES.items():
        if call.has(flag):
            resources.setdefault(group, {})[key] = parse_bytes(flag, call.value(flag))
            if key.startswith("kernel"):
                log.write("warning", "Kernel memory settings are ignored and will be removed")
    return resources


def parse_bytes(flag: str, text: str) -> int:
    """``512m``, ``1GiB``, ``-1``: bytes, by powers of 1024."""
    if text == "-1":
        return -1
    word = text.lower().removesuffix("b").removesuffix("i")
    factor = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50}.get(word[-1:], 0)
    try:
        return number(flag, (word[:-1] if factor else word).strip()) << factor
    except UsageError:
        raise RuntimeFailure(f"invalid value for {flag}: invalid size: '{text}'") from None
