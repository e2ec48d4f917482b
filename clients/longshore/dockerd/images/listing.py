"""GET /images/json: which images, and in which order."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from longshore.api.errors import InvalidArgument
from longshore.dockerd.backend import times
from longshore.dockerd.images import names
from longshore.dockerd.images.catalogue import Entry
from longshore.dockerd.images.names import Reference

LIST_FILTERS: Final = frozenset(("dangling", "label", "label!", "before", "since", "reference", "until"))
PRUNE_FILTERS: Final = frozenset(("dangling", "label", "label!", "until"))

Wanted = Callable[[Entry], bool]


class Selection(NamedTuple):
    """What a listing asks for. `before` and `since` are nanoseconds, exclusive; 0 is no bound."""

    dangling: bool | None = None
    labels: tuple[str, ...] = ()
    no_labels: tuple[str, ...] = ()
    before_ns: int = 0
    since_ns: int = 0
    patterns: tuple[str, ...] = ()

    def takes(self, entry: Entry) -> bool:
        """Everything but `dangling` and `patterns`, which depend on names."""
        made = entry.facts.created_ns
        if (self.before_ns and made >= self.before_ns) or (self.since_ns and made <= self.since_ns):
            return False
        labels = entry.facts.labels
        return all(_labelled(labels, wish) for wish in self.labels) and not any(
            _labelled(labels, wish) for wish in self.no_labels
        )


def _labelled(labels: Mapping[str, str], wish: str) -> bool:
    key, equals, value = wish.partition("=")
    return key in labels and (not equals or labels[key] == value)


def boolean(filters: Mapping[str, Sequence[str]], name: str) -> bool | None:
    """A filter that is true or false; None if it isn't there. Raises InvalidArgument."""
    values = set(filters.get(name) or ())
    if not values:
        return None
    truth = {"1": True, "true": True, "True": True, "TRUE": True, "t": True, "T": True}
    truth |= {"0": False, "false": False, "False": False, "FALSE": False, "f": False, "F": False}
    if len(values) > 1 or not values <= truth.keys():
        raise InvalidArgument(f"invalid filter '{name}=[{' '.join(sorted(values))}]'")
    return truth[values.pop()]


def until(filters: Mapping[str, Sequence[str]]) -> int:
    """The `until` filter as nanoseconds; 0 without one. Raises InvalidArgument."""
    values = filters.get("until") or ()
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    return times.parse(values[0]) if values else 0


def narrowed(entry: Entry, patterns: Sequence[str]) -> Entry | None:
    """The entry with the names that fit one of the patterns; None if none does."""
    if not patterns:
        return entry
    tags = [tag for tag in entry.tags if _fits(tag, patterns)]
    digests = [digest for digest in entry.digests if _fits(digest, patterns)]
    return Entry(entry.facts, entry.records, tags, digests) if tags or digests else None


def _fits(reference: Reference, patterns: Sequence[str]) -> bool:
    whole, name = names.familiar(reference), names.familiar_name(reference)
    return any(_match(whole, pattern) or _match(name, pattern) for pattern in patterns)


def _match(text: str, pattern: str) -> bool:
    """A file name's pattern: no star crosses a slash."""
    pieces, wanted = text.split("/"), pattern.replace("[^", "[!").split("/")
    return len(pieces) == len(wanted) and all(map(fnmatch.fnmatchcase, pieces, wanted))


def newest_first(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.facts.created_ns, reverse=True)
