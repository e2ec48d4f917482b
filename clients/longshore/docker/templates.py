"""The part of Go's text/template that ``--format`` is used with.

Fields and map keys, variables, pipelines, if/else/range/with/define-free
blocks, and the functions that docker adds (json, join, split, ...).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from longshore.docker.api import Failure

_TAG = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r'\s*("(?:\\.|[^"\\])*"|`[^`]*`|\$?[A-Za-z_]\w*|\$|-?\d+(?:\.\d+)?|\.[A-Za-z_]\w*|:=|[().,|=])'
)


class Missing:
    """A key that a map doesn't have."""


class Template:
    """`render` raises Failure in docker's words. Data are JSON values; a value may have attributes instead."""

    def __init__(self, text: str) -> None:
        self._pieces = list(_pieces(text))
        self._position = 0
        self._body = self._block(())

    def render(self, data: Any) -> str:
        parts: list[str] = []
        _run(self._body, {"$": data}, data, parts)
        return "".join(parts)

    def _block(self, ends: tuple[str, ...]) -> list[Any]:
        nodes: list[Any] = []
        while self._position < len(self._pieces):
            kind, text = self._pieces[self._position]
            if kind == "text":
                nodes.append(("text", text))
            elif (word := text.split(" ", 1)[0]) in ends:
                return nodes
            elif word in ("if", "range", "with"):
                nodes.append(self._nested(word, text))
            elif word in ("end", "else"):
                raise _bad(f"unexpected {{{{{word}}}}}")
            elif not text.startswith("/*"):
                nodes.append(("print", *_declaration(text)))
            self._position += 1
        if ends:
            raise _bad("unexpected EOF")
        return nodes

    def _nested(self, word: str, text: str) -> Any:
        names, pipeline = _declaration(text[len(word) :])
        self._position += 1
        body = self._block(("end", "else"))
        otherwise: list[Any] = []
        rest = self._pieces[self._position][1]
        if rest.startswith("else"):
            chained = rest[4:].strip()
            if chained.startswith("if"):
                otherwise = [self._nested("if", chained)]
                return (word, names, pipeline, body, otherwise)
            self._position += 1
            otherwise = self._block(("end",))
        return (word, names, pipeline, body, otherwise)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    start = 0
    trim = False
    for match in _TAG.finditer(text):
        before = text[start : match.start()]
        before = before.lstrip() if trim else before
        if match[1]:
            before = before.rstrip()
        if before:
            yield "text", before
        yield "tag", match[2].strip()
        trim = bool(match[3])
        start = match.end()
    rest = text[start:].lstrip() if trim else text[start:]
    if "{{" in rest:
        raise _bad("unclosed action")
    if rest:
        yield "text", rest


def _declaration(text: str) -> tuple[list[str], Any]:
    tokens = _tokens(text)
    names: list[str] = []
    for assign in (":=", "="):
        if assign in tokens:
            at = tokens.index(assign)
            names = [token for token in tokens[:at] if token != ","]
            tokens = tokens[at + 1 :]
            break
    if not tokens:
        raise _bad("missing value for command")
    return names, _pipeline(tokens)


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _bad(f"unexpected {json.dumps(text[position:].lstrip()[:1])} in command")
        # ".a.b" is one operand, "f .a" is two.
        token = match[1]
        if (
            token[0] == "."
            and len(token) > 1
            and match.start(1) == position
            and tokens
            and _joins(tokens[-1])
        ):
            tokens[-1] += token
        else:
            tokens.append(token)
        position = match.end()
    return tokens


def _joins(token: str) -> bool:
    return token == ")" or token[0] in ".$" or token.replace("_", "a").isalnum()


def _pipeline(tokens: list[str]) -> list[list[Any]]:
    commands: list[list[Any]] = [[]]
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token == "|":
            commands.append([])
        elif token == "(":
            depth, end = 1, position + 1
            while depth and end < len(tokens):
                depth += (tokens[end] == "(") - (tokens[end].startswith(")"))
                end += 1
            inner = ("group", _pipeline(tokens[position + 1 : end - 1]), tokens[end - 1][1:])
            commands[-1].append(inner)
            position = end - 1
        else:
            commands[-1].append(token)
        position += 1
    if not all(commands):
        raise _bad("missing value for command")
    return commands


def _run(nodes: list[Any], variables: dict[str, Any], dot: Any, parts: list[str]) -> None:
    for node in nodes:
        if node[0] == "text":
            parts.append(node[1])
            continue
        value = _evaluate(node[2], variables, dot)
        if node[0] == "print":
            if node[1]:
                variables[node[1][0]] = value
            else:
                parts.append(text_of(value))
        elif node[0] == "range":
            _range(node, value, variables, parts, dot)
        else:
            scope = dict(variables)
            if node[1]:
                scope[node[1][0]] = value
            inner = value if node[0] == "with" else dot
            _run(node[3] if _true(value) else node[4], scope, inner if _true(value) else dot, parts)


def _range(node: Any, value: Any, variables: dict[str, Any], parts: list[str], dot: Any) -> None:
    if isinstance(value, Mapping):
        items: list[tuple[Any, Any]] = sorted(value.items())
    elif isinstance(value, int):
        items = [(number, number) for number in range(value)]
    else:
        items = list(enumerate(value or ()))
    if not items:
        _run(node[4], dict(variables), dot, parts)
    for key, item in items:
        scope = dict(variables)
        if len(node[1]) == 2:
            scope[node[1][0]], scope[node[1][1]] = key, item
        elif node[1]:
            scope[node[1][0]] = item
        _run(node[3], scope, item, parts)


def _evaluate(pipeline: list[list[Any]], variables: dict[str, Any], dot: Any) -> Any:
    value: Any = None
    for number, command in enumerate(pipeline):
        name = command[0]
        arguments = [_operand(word, variables, dot) for word in command[1:]]
        if number:
            arguments.append(value)
        if isinstance(name, str) and (name[0].isalpha() and name not in ("true", "false", "nil")):
            value = _call(name, arguments)
        else:
            value = _operand(name, variables, dot)
            if arguments and callable(value):
                value = value(*arguments)
            elif arguments:
                raise _bad(f"can't give argument to non-function {name}")
    return value() if callable(value) else value


def _operand(word: Any, variables: dict[str, Any], dot: Any) -> Any:
    if not isinstance(word, str):
        value = _evaluate(word[1], variables, dot)
        return _walk(value, word[2]) if word[2] else value
    if word[0] == '"':
        return json.loads(word)
    if word[0] == "`":
        return word[1:-1]
    if word in ("true", "false"):
        return word == "true"
    if word == "nil":
        return None
    if re.fullmatch(r"-?\d+", word):
        return int(word)
    if re.fullmatch(r"-?\d+\.\d+", word):
        return float(word)
    if word[0] == "$":
        name, point, rest = word.partition(".")
        if name not in variables:
            raise _bad(f'undefined variable "{name}"')
        return _walk(variables[name], point + rest) if point else variables[name]
    if word[0] == ".":
        return dot if word == "." else _walk(dot, word)
    return _call(word, [])


def _walk(value: Any, path: str) -> Any:
    names = path.split(".")[1:]
    for number, name in enumerate(names):
        if isinstance(value, Mapping):
            if name not in value:
                shown = "." + ".".join(names[: number + 1])
                raise Undefined(shown, name)
            value = value[name]
        elif value is None:
            raise Undefined("." + ".".join(names[: number + 1]), name, nil=True)
        elif hasattr(value, name):
            value = getattr(value, name)
            value = value() if callable(value) and number < len(names) - 1 else value
        else:
            raise Undefined("." + ".".join(names[: number + 1]), name, kind=_kind(value))
    return value


class Undefined(Failure):
    """A field that isn't there."""

    def __init__(self, path: str, name: str, *, nil: bool = False, kind: str = "") -> None:
        what = (
            f"nil pointer evaluating interface {{}}.{name}"
            if nil
            else f"can't evaluate field {name} in type {kind}"
            if kind
            else f'map has no entry for key "{name}"'
        )
        super().__init__(f'template: :1:2: executing "" at <{path}>: {what}')


def _kind(value: Any) -> str:
    kinds = {str: "string", bool: "bool", int: "int64", float: "float64", list: "[]interface {}"}
    return kinds.get(type(value), "interface {}")


def _true(value: Any) -> bool:
    return bool(value)


def text_of(value: Any) -> str:
    """As Go's fmt prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) or abs(value) >= 1e21 else str(int(value))
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_inner(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(_inner(item) for item in value) + "]"
    return str(value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else text_of(value)


def to_json(value: Any) -> str:
    """As Go's encoder writes it."""
    document = value.document() if hasattr(value, "document") else value
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return text


def _call(name: str, arguments: list[Any]) -> Any:
    function = _FUNCTIONS.get(name)
    if function is None:
        raise _bad(f'function "{name}" not defined')
    try:
        return function(*arguments)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        if isinstance(error, KeyError):
            return None
        raise Failure(f'template: :1:2: executing "" at <{name}>: error calling {name}: {error}') from None


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif value is None:
            raise ValueError("index of untyped nil")
        else:
            if not 0 <= key < len(value):
                raise ValueError(f"reflect: slice index out of range: {key}")
            value = value[key]
    return value


def _slice(value: Any, *bounds: int) -> Any:
    return value[bounds[0] if bounds else 0 : bounds[1] if len(bounds) > 1 else len(value)]


def _and(*values: Any) -> Any:
    return next((value for value in values if not _true(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if _true(value)), values[-1])


def _printf(form: str, *values: Any) -> str:
    form = re.sub(
        r"%(-?\d*(?:\.\d+)?)([vq])", lambda match: f"%{match[1]}s" if match[2] == "v" else '"%s"', form
    )
    plain = (value if type(value) in (int, float) else text_of(value) for value in values)
    return form % tuple(plain)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "join": lambda values, separator: separator.join(map(text_of, values or ())),
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "title": lambda text: text.title(),
    "pad": lambda text, before, after: " " * before + text + " " * after if text else text,
    "truncate": lambda text, count: text[:count],
    "println": lambda *values: " ".join(map(text_of, values)) + "\n",
    "print": lambda *values: "".join(map(text_of, values)),
    "printf": _printf,
    "len": lambda value: len(value or ()),
    "index": _index,
    "slice": _slice,
    "and": _and,
    "or": _or,
    "not": lambda value: not _true(value),
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "html": lambda value: text_of(value),
    "urlquery": lambda value: text_of(value),
}


def _bad(what: str) -> Failure:
    return Failure(f"template parsing error: template: :1: {what}", 64)
