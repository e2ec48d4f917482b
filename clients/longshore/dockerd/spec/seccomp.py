"""A seccomp profile in Docker's own form, as the runtime takes it.

Docker's form has more than the runtime's: an architecture map, single `name`s,
and conditions (`includes`, `excludes`: capabilities, architectures, a minimal
kernel) that are decided for one container on one machine.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping
from typing import Any, Final

from longshore.api.errors import InvalidArgument

# Machine -> (the name in conditions, the name in an architecture map).
_MACHINES: Final = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "i686": ("386", "SCMP_ARCH_X86"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}
_COPIED: Final = ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")


def convert(profile: Mapping[str, Any], capabilities: Collection[str], machine: str = "") -> dict[str, Any]:
    """Raises InvalidArgument for a profile that contradicts itself."""
    machine = machine or platform.machine()
    if "defaultAction" not in profile:
        raise InvalidArgument("Decoding seccomp profile failed: no defaultAction")
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidArgument("use either 'architectures' or 'archMap', not both")
    converted = {name: profile[name] for name in ("defaultAction", *_COPIED) if profile.get(name) is not None}
    if architectures := _architectures(profile, machine):
        converted["architectures"] = architectures
    rules = [rule for rule in profile.get("syscalls") or () if _applies(rule, capabilities, machine)]
    converted["syscalls"] = [_rule(rule) for rule in rules]
    return converted


def _architectures(profile: Mapping[str, Any], machine: str) -> list[str]:
    mine = _MACHINES.get(machine, ("", ""))[1]
    for entry in profile.get("archMap") or ():
        if entry.get("architecture") == mine:
            return [mine, *(entry.get("subArchitectures") or ())]
    return list(profile.get("architectures") or ())


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    if rule.get("name") and rule.get("names"):
        raise InvalidArgument("use either 'name' or 'names', not both")
    names = [rule["name"]] if rule.get("name") else list(rule.get("names") or ())
    converted: dict[str, Any] = {"names": names, "action": rule.get("action", "")}
    if rule.get("errnoRet") is not None:
        converted["errnoRet"] = rule["errnoRet"]
    if rule.get("args"):
        converted["args"] = [dict(argument) for argument in rule["args"]]
    return converted


def _applies(rule: Mapping[str, Any], capabilities: Collection[str], machine: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    architecture = _MACHINES.get(machine, (machine, ""))[0]
    if architecture in (excludes.get("arches") or ()):
        return False
    if any(name in capabilities for name in excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and kernel() >= _version(excludes["minKernel"]):
        return False
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if not all(name in capabilities for name in includes.get("caps") or ()):
        return False
    return not includes.get("minKernel") or kernel() >= _version(includes["minKernel"])


def kernel() -> tuple[int, int]:
    """Of this machine: (6, 18)."""
    return _version(os.uname().release)


def _version(text: str) -> tuple[int, int]:
    digits = text.split("-")[0].split(".")
    try:
        return int(digits[0]), int(digits[1])
    except (IndexError, ValueError):
        raise InvalidArgument(f"invalid kernel version {text!r} in a seccomp profile") from None
