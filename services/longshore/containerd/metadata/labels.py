"""Labels: their limit, their storage, and how update masks reach into them."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final

from longshore.api.errors import InvalidArgument

MAX_SIZE: Final = 4096
_SHOWN: Final = 64


def validate(labels: Mapping[str, str], what: str) -> None:
    """Raise InvalidArgument if a key and its value together exceed 4096 bytes; `what` opens the message."""
    for key, value in labels.items():
        raw = key.encode()
        total = len(raw) + len(value.encode())
        if total > MAX_SIZE:
            shown = raw[:_SHOWN].decode("utf-8", "replace")
            raise InvalidArgument(
                f"{what}: label key and value length ({total} bytes) greater than maximum size"
                f" ({MAX_SIZE} bytes), key: {shown}: invalid argument"
            )


def drop_empty(labels: MutableMapping[str, str]) -> None:
    """An empty value deletes a label, also when an object is made."""
    for key in [key for key, value in labels.items() if not value]:
        del labels[key]


def dumps(labels: Mapping[str, str]) -> str:
    """The form in which a column holds labels."""
    return json.dumps(dict(labels), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def loads(column: str) -> dict[str, str]:
    """The reverse of `dumps`."""
    labels: dict[str, str] = json.loads(column)
    return labels


def lookup(labels: Mapping[str, str], path: Sequence[str]) -> str | None:
    """A label by the rest of a filter's field path, whose dots belong to the key."""
    return labels.get(".".join(path)) or None


def replace(target: MutableMapping[str, str], source: Mapping[str, str]) -> None:
    """Make `target` equal to `source` in place (protobuf maps can't be assigned)."""
    target.clear()
    target.update(source)


def copy_one(target: MutableMapping[str, str], source: Mapping[str, str], key: str) -> None:
    """The mask ``labels.<key>``: take one label over; absent or empty in `source` deletes it."""
    if value := source.get(key):
        target[key] = value
    else:
        target.pop(key, None)
