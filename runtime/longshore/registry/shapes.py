"""What the JSON of images must look like, checked where it is read: what comes later may trust it.

A shape is `str`, `int` (a size in bytes), ``[shape]`` for a list, or a
dictionary for an object, where ``"*"`` stands for every other key. Keys that
are absent or null are fine, keys that aren't named may hold anything.
"""

from __future__ import annotations

import json
from typing import Any, Final

TEXTS: Final = {"*": str}

DESCRIPTOR: Final = {
    "mediaType": str,
    "digest": str,
    "size": int,
    "annotations": TEXTS,
    "urls": [str],
    "platform": {"os": str, "architecture": str, "variant": str, "os.version": str},
}

SETTINGS: Final = {
    "Env": [str],
    "Cmd": [str],
    "Entrypoint": [str],
    "User": str,
    "WorkingDir": str,
    "StopSignal": str,
    "Labels": TEXTS,
}

# A manifest, an index or an image's configuration: their keys don't contradict each other, but for `config`.
DOCUMENT: Final = {
    "mediaType": str,
    "annotations": TEXTS,
    "manifests": [DESCRIPTOR],
    "layers": [DESCRIPTOR],
    "config": {**DESCRIPTOR, **SETTINGS},
    "os": str,
    "architecture": str,
    "variant": str,
    "rootfs": {"diff_ids": [str]},
}

LARGEST: Final = (1 << 63) - 1


def parse(data: bytes, shape: Any = DOCUMENT) -> dict[str, Any]:
    """The object that `data` is. Raises ValueError, which says what is wrong with it."""
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("no JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    check(found, shape)
    return found


def check(value: Any, shape: Any, where: str = "") -> None:
    """Raises ValueError, which names the place."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is no list")
        for place, item in enumerate(value):
            check(item, shape[0], f"{where}[{place}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is no object")
        _check_object(value, shape, where)
    elif shape is int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
            raise ValueError(f"{where} is no size: {value!r:.100}")
    elif not isinstance(value, str) or not _is_text(value):
        raise ValueError(f"{where} is no text: {value!r:.100}")


def _check_object(value: dict[str, Any], shape: dict[str, Any], where: str) -> None:
    every = shape.get("*")
    for key, item in value.items():
        wanted = shape.get(key, every)
        if wanted is not None and item is not None:
            check(item, wanted, f"{where}.{key}" if where else key)
        if every is not None and not _is_text(key):
            raise ValueError(f"{where} has a key that is no text: {key!r:.100}")


def _is_text(value: str) -> bool:
    """JSON can hold halves of surrogate pairs, which nothing can be written in."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
