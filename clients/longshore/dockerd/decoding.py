"""JSON of clients, read as leniently as the original reads it, and no more.

Go's decoder finds members in any case, ignores unknown ones, and takes null for
an absent one. `decode` walks the document beside its type to do the same, then
has msgspec check the rest.
"""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from longshore.api import errors

T = TypeVar("T")

_LEAST: Final = -(1 << 63)
_MOST: Final = (1 << 63) - 1
"""Numbers of the API are 64 bits wide."""


def decode(data: bytes, kind: type[T]) -> T:
    """An empty body is {}. InvalidArgument says what is wrong and where."""
    try:
        document = msgspec.json.decode(data) if data.strip() else {}
        return msgspec.convert(_fitted(document, kind), kind)
    except msgspec.ValidationError as error:
        raise errors.InvalidArgument(f"invalid JSON: {error}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise errors.InvalidArgument(f"invalid JSON: {error}") from None


class _Shape(NamedTuple):
    """What matters of a type here."""

    nullable: bool
    members: dict[str, tuple[str, Any]] | None  # lower-case -> (name on the wire, type)
    values: Any | None  # of a dict
    items: Any | None  # of a list


@cache
def _shape(kind: Any) -> _Shape:
    nullable = False
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = typing.get_args(kind)
        nullable = type(None) in kinds
        structured = [one for one in kinds if typing.get_origin(one) in (dict, list) or _is_struct(one)]
        kind = structured[0] if structured else object
    if _is_struct(kind):
        hints = typing.get_type_hints(kind)
        fields = msgspec.structs.fields(kind)
        return _Shape(
            nullable, {f.encode_name.lower(): (f.encode_name, hints[f.name]) for f in fields}, None, None
        )
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return _Shape(nullable, None, arguments[1], None)
    if origin is list:
        return _Shape(nullable, None, None, arguments[0])
    return _Shape(nullable or kind in (Any, object, type(None)), None, None, None)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _fitted(value: Any, kind: Any) -> Any:
    shape = _shape(kind)
    if isinstance(value, dict):
        if shape.members is not None:
            return _members(value, shape.members)
        if shape.values is not None:
            return {key: _zero(_fitted(item, shape.values), shape.values) for key, item in value.items()}
    elif isinstance(value, list) and shape.items is not None:
        return [_zero(_fitted(item, shape.items), shape.items) for item in value]
    elif isinstance(value, int) and not _LEAST <= value <= _MOST:
        # Kept, it would be written out again, and no client could read the container that has it.
        raise errors.InvalidArgument(f"invalid JSON: the number {value} is out of range")
    return value


def _members(value: dict[str, Any], members: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    fitted = {}
    for name, item in value.items():
        wire, kind = members.get(name.lower(), (name, object))
        if item is not None or _shape(kind).nullable:
            fitted[wire] = _fitted(item, kind)
    return fitted


def _zero(value: Any, kind: Any) -> Any:
    """In place of a null inside a map or a list that has no room for one."""
    shape = _shape(kind)
    if value is not None or shape.nullable:
        return value
    if shape.members is not None or shape.values is not None:
        return {}
    if shape.items is not None:
        return []
    return kind() if kind in (str, int, bool, float) else None


BOOLEANS: Final = ("true", "1", "false", "0")
"""What a filter that is true or false may say."""


def filters(text: str, allowed: frozenset[str], *, ignore_others: bool = False) -> dict[str, list[str]]:
    """``{"name": ["a"]}``, or the older ``{"name": {"a": true}}``; InvalidArgument names one not `allowed`."""
    if not text:
        return {}
    try:
        document = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool] | None] | None) or {}
    except msgspec.DecodeError as error:
        raise errors.InvalidArgument(f"invalid filter: {error}") from None
    for name in document:
        if name not in allowed and not ignore_others:
            raise errors.InvalidArgument(f"invalid filter '{name}'")
    return {name: list(values or ()) for name, values in document.items() if name in allowed}
