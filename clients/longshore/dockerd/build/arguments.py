"""Build arguments: what `--build-arg` gives, what ARG declares, and the proxies that need no declaration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

PREDEFINED: Final = frozenset(
    name
    for word in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (word, word.lower())
)
"""Allowed without ARG, and then kept out of history and cache."""


class Arguments:
    """Of one stage; `given` is what the client passed (None: a name without a value)."""

    def __init__(self, given: Mapping[str, str | None]) -> None:
        self._given = dict(given)
        self._declared: dict[str, str | None] = {}
        self._global: dict[str, str | None] = {}
        self._consumed: set[str] = set()

    def stage(self) -> Arguments:
        """For the next stage: the global ones, nothing declared."""
        fresh = Arguments(self._given)
        fresh._global, fresh._consumed = self._global, self._consumed
        return fresh

    def declare(self, name: str, default: str | None) -> None:
        self._declared[name] = default
        self._consumed.add(name)

    def declare_global(self, name: str, default: str | None) -> None:
        """Before the first FROM."""
        self.declare(name, default)
        self._global[name] = default

    def globals(self) -> dict[str, str]:
        """What a FROM may name."""
        return self._values(self._global)

    def values(self) -> dict[str, str]:
        """What the stage's instructions may name."""
        return self._values(self._declared)

    def environment(self, env: Iterable[str]) -> list[str]:
        """`NAME=value` for a command; an ENV of the same name goes before."""
        taken = {entry.partition("=")[0] for entry in env}
        return [f"{name}={value}" for name, value in self.values().items() if name not in taken]

    def recorded(self, environment: Iterable[str]) -> list[str]:
        """Those of `environment` that the history tells, sorted."""
        return sorted(entry for entry in environment if self._is_recorded(entry.partition("=")[0]))

    def unused(self) -> list[str]:
        """Given by the client, declared nowhere."""
        return sorted(name for name in self._given if name not in PREDEFINED and name not in self._consumed)

    def _is_recorded(self, name: str) -> bool:
        return name in self._declared or name not in PREDEFINED

    def _values(self, declared: Mapping[str, str | None]) -> dict[str, str]:
        found = {}
        for name in [*declared, *sorted(PREDEFINED - declared.keys())]:
            value = self._value(name, declared)
            if value is not None:
                found[name] = value
        return found

    def _value(self, name: str, declared: Mapping[str, str | None]) -> str | None:
        for source in (self._given, declared, self._global):
            value = source.get(name)
            if value is not None:
                return value
        return None
