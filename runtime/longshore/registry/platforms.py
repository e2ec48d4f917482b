"""Which of an index's manifests serves a machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}
_SPELLINGS = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
_DEFAULT_VARIANTS = {"arm": "v7", "arm64": "v8", "amd64": "v1"}


class Platform(NamedTuple):
    """``linux/arm/v7``. The variant that goes without saying (arm64's v8, amd64's v1, arm's v7) may be left out."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Platform:
        """From a descriptor's JSON."""
        return cls(*(str(data.get(key) or "") for key in ("os", "architecture", "variant")))

    @property
    def full(self) -> Platform:
        """With one spelling, and the variant said."""
        architecture = _SPELLINGS.get(self.architecture, self.architecture)
        variant = self.variant or _DEFAULT_VARIANTS.get(architecture, "")
        if variant and not variant.startswith("v"):
            variant = f"v{variant}"
        return Platform(self.os.lower(), architecture, variant)


def host_platform() -> Platform:
    machine = platform.machine()
    variant = {"armv7l": "v7", "armv6l": "v6"}.get(machine, "")
    return Platform("linux", _MACHINES.get(machine, machine), variant)


def acceptable(wanted: Platform) -> list[Platform]:
    """What runs on `wanted`, best first: older variants of an architecture run on newer ones."""
    full = wanted.full
    if full.architecture in ("arm", "arm64", "amd64") and full.variant[1:].isdigit():
        oldest = {"arm": 5, "arm64": 8, "amd64": 1}[full.architecture]
        newest = int(full.variant[1:])
        return [full._replace(variant=f"v{number}") for number in range(newest, oldest - 1, -1)] or [full]
    return [full]


class Placed(Protocol):
    @property
    def platform(self) -> Platform | None: ...


T = TypeVar("T", bound=Placed)


def choose(entries: Sequence[T], wanted: Platform) -> T | None:
    """The entry that serves `wanted` best; one that names no platform serves when no other does."""
    ranking = {platform: rank for rank, platform in enumerate(acceptable(wanted))}
    ranked = [
        (ranking[entry.platform.full], place)
        for place, entry in enumerate(entries)
        if entry.platform is not None and entry.platform.full in ranking
    ]
    if ranked:
        return entries[min(ranked)[1]]
    silent = (e for e in entries if e.platform is None or not e.platform.architecture)
    return next(silent, None)
