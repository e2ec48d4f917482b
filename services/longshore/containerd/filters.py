"""The filter language of List and Subscribe calls.

    filter    = [ selector *( "," selector ) ]          all selectors must hold; "" holds for everything
    selector  = fieldpath [ operator value ]            without operator: is the field present?
    fieldpath = field *( "." field )
    field     = 1*( letter / digit / "_" ) / quoted     quoted by "..." with Go's escapes
    operator  = "==" / "!=" / "~="
    value     = quoted / 1*( graphic character other than space and comma )

After ``~=`` a value may also be quoted by ``/`` or ``|``, in which a regexp
keeps its backslashes. The regexp is RE2's, searched anywhere in the value. One
that doesn't compile matches nothing: containerd logs it and so do we. ``!=``
holds for an absent field too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import re2
import structlog

from longshore.api.errors import InvalidArgument

log = structlog.get_logger("filters")

Lookup = Callable[[Sequence[str]], "str | None"]
"""Field path -> its value, or None if the object has no such field."""

Filter = Callable[[Lookup], bool]


def compile(filters: Sequence[str]) -> Filter:
    """A predicate that holds when any of `filters` does; no filters: always. Raises InvalidArgument on bad syntax."""
    parsed = [parse(text) for text in filters]
    if not parsed or not all(parsed):
        return _always
    return lambda lookup: any(all(test(lookup) for test in tests) for tests in parsed)


def _always(_lookup: Lookup) -> bool:
    return True


# -- syntax -------------------------------------------------------------------------------------------------


class Token(NamedTuple):
    kind: str  # end field quoted value separator operator illegal
    position: int
    text: str


class _Syntax(Exception):
    def __init__(self, position: int, message: str) -> None:
        self.position = position
        self.message = message


def parse(text: str) -> list[Filter]:
    """The selectors of one filter string, all of which must hold. Raises InvalidArgument."""
    if not text:
        return []
    try:
        return _Parser(text).selectors()
    except _Syntax as error:
        raise InvalidArgument(f"filters: {_pointed(text, error)}: invalid argument") from None


def _pointed(text: str, error: _Syntax) -> str:
    if error.position < len(text):
        before, at, after = text[: error.position], text[error.position], text[error.position + 1 :]
        return f"[{before} >|{at}|< {after}]: {error.message}"
    return f"[{text}]: {error.message}"


_OPERATORS = "=!~"
_SEPARATORS = ",."
_QUOTES = '"/|'
_FIELD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")


def _is_value(character: str) -> bool:
    # Go's IsGraphic: letters, marks, numbers, punctuation, symbols and space separators.
    return character != "," and not character.isspace() and unicodedata.category(character)[0] in "LMNPSZ"


class _Scanner:
    """Cuts the text into tokens. What a run of characters is depends on whether an operator went before it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._expects_value = False

    def peek(self) -> str:
        """The next character that isn't a space, "" at the end."""
        position = self.position
        while position < len(self.text) and self.text[position].isspace():
            position += 1
        return self.text[position : position + 1]

    def scan(self) -> Token:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1
        start = self.position
        if start == len(self.text):
            return Token("end", start, "")
        first = self.text[start]
        if first in _QUOTES:
            return self._quoted(start, first)
        if first in _SEPARATORS:
            self._expects_value = False
            self.position += 1
            return Token("separator", start, first)
        if first in _OPERATORS:
            self._expects_value = True
            return self._run("operator", start, lambda character: character in _OPERATORS)
        if self._expects_value:
            self._expects_value = False
            return self._run("value", start, _is_value)
        if first in _FIELD:
            return self._run("field", start, _FIELD.__contains__)
        self.position += 1
        return Token("illegal", self.position, "")

    def _run(self, kind: str, start: int, belongs: Callable[[str], bool]) -> Token:
        while self.position < len(self.text) and belongs(self.text[self.position]):
            self.position += 1
        return Token(kind, start, self.text[start : self.position])

    def _quoted(self, start: int, quote: str) -> Token:
        self.position += 1
        while self.position < len(self.text):
            character = self.text[self.position]
            self.position += 2 if character == "\\" else 1
            if character == quote:
                return Token("quoted", start, self.text[start : self.position])
        self.position = len(self.text)
        return Token("illegal", start, "quoted literal not terminated")


class _Parser:
    def __init__(self, text: str) -> None:
        self._scanner = _Scanner(text)

    def selectors(self) -> list[Filter]:
        selectors = [self._selector()]
        while following := self._scanner.peek():
            if following != ",":
                raise _Syntax(self._scanner.position, f"unexpected input: {following}")
            self._scanner.scan()
            selectors.append(self._selector())
        return selectors

    def _selector(self) -> Filter:
        path = [self._field()]
        while self._scanner.peek() == ".":
            self._scanner.scan()
            path.append(self._field())
        if self._scanner.peek() in ("", ","):
            return _present(path)
        operator = self._operator()
        return operator(path, self._value(regexp=operator is _search))

    def _field(self) -> str:
        token = self._scanner.scan()
        if token.kind == "field":
            return token.text
        if token.kind == "quoted":
            return _unquoted(token, regexp=False)
        raise _Syntax(token.position, _illegal(token) or "expected field or quoted")

    def _operator(self) -> Callable[[Sequence[str], str], Filter]:
        token = self._scanner.scan()
        if token.kind != "operator":
            raise _Syntax(token.position, _illegal(token) or 'expected an operator ("=="|"!="|"~=")')
        operator = _TESTS.get(token.text)
        if operator is None:
            raise _Syntax(token.position, f'unsupported operator "{token.text}"')
        return operator

    def _value(self, *, regexp: bool) -> str:
        token = self._scanner.scan()
        if token.kind in ("value", "field"):
            return token.text
        if token.kind == "quoted":
            return _unquoted(token, regexp=regexp)
        raise _Syntax(token.position, _illegal(token) or "expected value or quoted")


def _illegal(token: Token) -> str:
    return token.text if token.kind == "illegal" else ""


_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}


def _unquoted(token: Token, *, regexp: bool) -> str:
    quote, body = token.text[0], token.text[1:-1]
    if quote != '"' and not regexp:
        raise _Syntax(token.position, "invalid quote encountered")
    try:
        return _unescape(body, quote)
    except ValueError:
        raise _Syntax(token.position, "unquoting failed: quote syntax error") from None


def _unescape(body: str, quote: str) -> str:
    parts: list[str] = []
    position = 0
    while position < len(body):
        character = body[position]
        if character != "\\":
            parts.append(character)
            position += 1
            continue
        piece, position = _escape(body, position + 1, quote)
        parts.append(piece)
    return "".join(parts)


def _escape(body: str, position: int, quote: str) -> tuple[str, int]:
    """The character of the escape whose letter stands at `position`, and where to go on. ValueError if it is none."""
    letter = body[position : position + 1]
    if letter in _ESCAPES:
        return _ESCAPES[letter], position + 1
    if letter and letter == quote:
        return letter, position + 1
    if letter in _HEX_ESCAPES:
        end = position + 1 + _HEX_ESCAPES[letter]
        return _character(body[position + 1 : end], 16, _HEX_ESCAPES[letter]), end
    return _character(body[position : position + 3], 8, 3), position + 3


def _character(digits: str, base: int, length: int) -> str:
    if len(digits) != length or not digits.isalnum():
        raise ValueError(digits)
    return chr(int(digits, base))


# -- tests --------------------------------------------------------------------------------------------------


def _present(path: Sequence[str]) -> Filter:
    return lambda lookup: lookup(path) is not None


def _equal(path: Sequence[str], value: str) -> Filter:
    return lambda lookup: lookup(path) == value


def _unequal(path: Sequence[str], value: str) -> Filter:
    return lambda lookup: lookup(path) != value


def _search(path: Sequence[str], value: str) -> Filter:
    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(value, options=options)
    except re2.error as error:
        log.error("bad regexp in a filter matches nothing", regexp=value, error=str(error))
        return lambda _lookup: False
    return lambda lookup: pattern.search(lookup(path) or "") is not None


_TESTS: dict[str, Callable[[Sequence[str], str], Filter]] = {"==": _equal, "!=": _unequal, "~=": _search}
