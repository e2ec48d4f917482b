"""Update masks on objects of which only labels can change: content and snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from longshore.api.errors import InvalidArgument
from longshore.containerd.metadata import labels as labelling

Labels = dict[str, str]


def relabelling(
    labels: Mapping[str, str], paths: Iterable[str], refusal: Callable[[str], str]
) -> Callable[[Labels], Labels]:
    """Old labels to new: all replaced (no mask, or "labels"), or those that are named ("labels.<key>").

    Raises InvalidArgument, worded by `refusal`, for any other field.
    """
    named: list[str] = []
    whole = not paths
    for path in paths:
        if path.startswith("labels."):
            named.append(path.removeprefix("labels."))
        elif path == "labels":
            whole = True
        else:
            raise InvalidArgument(refusal(path))

    def relabel(old: Labels) -> Labels:
        new = dict(labels if whole else old)
        for key in named:
            labelling.copy_one(new, labels, key)
        return new

    return relabel
