"""Which names an image gets in the store, by the request's `name` and `extra_references`."""

from __future__ import annotations

from collections.abc import Iterable

from longshore.api.types.transfer.imagestore_pb2 import ImageReference, ImageStore
from longshore.registry.errors import InvalidReference
from longshore.registry.references import parse


def pulled(store: ImageStore, reference: str, digest: str) -> list[str]:
    """Names of a pulled image: its own, and those that are asked for besides."""
    names = [store.name or reference]
    for extra in store.extra_references:
        if not extra.is_prefix and extra.name:
            names.append(extra.name)
        if extra.add_digest and extra.name:
            names.append(f"{extra.name}@{digest}")
    return list(dict.fromkeys(names))


def imported(store: ImageStore, found: str, digest: str) -> list[str]:
    """Names of one image out of an archive that calls it `found` (a name, a bare tag, or "").

    Without a prefix among the references, full names are taken as they are.
    """
    prefixes = [extra for extra in store.extra_references if extra.is_prefix]
    if not prefixes:
        return [_full(found)] if _is_full(found) else []
    return list(dict.fromkeys(name for extra in prefixes for name in _by_prefix(extra, found, digest)))


def _by_prefix(extra: ImageReference, found: str, digest: str) -> Iterable[str]:
    name = ""
    if _is_full(found):
        full = _full(found)
        name = full if extra.allow_overwrite or full.startswith(extra.name) else ""
    elif found and extra.name:
        name = f"{extra.name}:{found}"
    if name:
        yield name
    if extra.add_digest and extra.name and not (name and extra.skip_named_digest):
        yield f"{extra.name}@{digest}"


def _is_full(name: str) -> bool:
    """A name and no bare tag."""
    return "/" in name or ":" in name


def _full(name: str) -> str:
    try:
        return str(parse(name))
    except InvalidReference:
        return name
