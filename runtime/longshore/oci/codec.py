"""JSON without the ``json`` package: its decoder imports ``re``, 9 ms of a 25 ms command.

The scanner and the string encoder are json's own C halves, so what is accepted
and refused is the same.
"""

from __future__ import annotations

from _json import encode_basestring, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Context:
    """What the C scanner reads of json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"invalid JSON constant {name}")


_scan = make_scanner(_Context())  # type: ignore[arg-type]
_SPACE = " \t\n\r"


def loads(data: str | bytes) -> Any:
    """Decode one JSON document (UTF-8); ValueError if it isn't one."""
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scan_or_explain(text, start)
    except StopIteration as stop:
        raise ValueError(f"invalid JSON at character {stop.value}") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if text[end:].strip(_SPACE):
        raise ValueError(f"extra data at character {end}")
    return value


def _scan_or_explain(text: str, start: int) -> tuple[Any, int]:
    try:
        return _scan(text, start)
    except SystemError:
        # The C half looks for its exception in a module that we spare ourselves until it is needed.
        import json.decoder  # noqa: F401

        return _scan(text, start)


def dumps(value: Any, indent: str = "") -> str:
    """Encode None, bool, int, float, str, list, tuple and dict; ``indent`` is one level's, "" for one line."""
    parts: list[str] = []
    _encode(value, parts.append, indent, "\n")
    return "".join(parts)


def _encode(value: Any, emit: Any, indent: str, newline: str) -> None:
    if isinstance(value, str):
        emit(encode_basestring(value))
    elif value is None:
        emit("null")
    elif value is True:
        emit("true")
    elif value is False:
        emit("false")
    elif isinstance(value, int):
        emit(int.__repr__(value))
    elif isinstance(value, float):
        emit(float.__repr__(value))
    elif isinstance(value, dict):
        _collection(value.items(), emit, indent, newline, "{}")
    elif isinstance(value, (list, tuple)):
        _collection(value, emit, indent, newline, "[]")
    else:
        raise TypeError(f"{type(value).__name__} can't be JSON")


def _collection(items: Any, emit: Any, indent: str, newline: str, brackets: str) -> None:
    if not items:
        emit(brackets)
        return
    deeper = newline + indent
    between = deeper if indent else ""
    colon = ": " if indent else ":"
    emit(brackets[0])
    first = True
    for item in items:
        emit(between if first else "," + between)
        first = False
        if brackets == "{}":
            emit(encode_basestring(str(item[0])) + colon)
            item = item[1]
        _encode(item, emit, indent, deeper)
    emit((newline if indent else "") + brackets[1])
