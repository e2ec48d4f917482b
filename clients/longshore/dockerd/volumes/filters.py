"""Which volumes a listing or a prune is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from longshore.api import errors
from longshore.dockerd.volumes.documents import ANONYMOUS, Volume

LIST: Final = frozenset(("dangling", "name", "driver", "label"))
PRUNE: Final = frozenset(("label", "label!", "all"))

Test = Callable[[Volume], bool]
_BOOLEANS: Final = {"1": True, "true": True, "True": True, "0": False, "false": False, "False": False}


def listing(filters: Mapping[str, Sequence[str]], used: Callable[[str], bool]) -> Test:
    """Every filter must hold; of the values of name or driver, one."""
    tests = [_labels(filters)]
    if drivers := filters.get("driver"):
        tests.append(lambda volume: volume.driver in drivers)
    if names := filters.get("name"):
        tests.append(_name(names))
    if values := filters.get("dangling"):
        dangling = _boolean("dangling", values)
        tests.append(lambda volume: used(volume.name) != dangling)
    return lambda volume: all(test(volume) for test in tests)


def prunable(filters: Mapping[str, Sequence[str]]) -> Test:
    """Anonymous ones, or with all=true any; never one with options, whose data lies elsewhere."""
    everything = bool(filters.get("all")) and _boolean("all", filters["all"])
    labels = _labels(filters)
    return lambda volume: (
        (everything or ANONYMOUS in (volume.labels or {})) and not volume.options and labels(volume)
    )


def _name(patterns: Sequence[str]) -> Test:
    import re2

    # What is no expression is looked for as it stands.
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re2.compile(pattern))
        except re2.error:
            compiled.append(re2.compile(re2.escape(pattern)))
    return lambda volume: any(expression.search(volume.name) for expression in compiled)


def _labels(filters: Mapping[str, Sequence[str]]) -> Test:
    wanted, unwanted = filters.get("label", ()), filters.get("label!", ())
    return lambda volume: (
        all(_has(volume, label) for label in wanted) and not any(_has(volume, label) for label in unwanted)
    )


def _has(volume: Volume, label: str) -> bool:
    key, equals, value = label.partition("=")
    found = (volume.labels or {}).get(key)
    return found is not None and (not equals or found == value)


def _boolean(name: str, values: Sequence[str]) -> bool:
    if len(values) != 1 or values[0] not in _BOOLEANS:
        raise errors.InvalidArgument(f"invalid filter '{name}=[{' '.join(values)}]'")
    return _BOOLEANS[values[0]]
