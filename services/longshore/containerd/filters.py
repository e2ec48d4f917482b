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


def matches_all(filters: Sequence[str]) -> bool:
    """True if there is nothing to filter by, so that records need not be decoded."""
    return not filters or list(filters) == [""]


def compile(filters: Sequence[str]) -> Filter:
    """A predicate that holds when any of `filters` does; no filters: always. Raises InvalidArgument on bad syntax."""
    parsed = [parse(text) for text in filters]
    if not parsed or not all(parsed):
        return _always
    return lambda lookup: any(all(test(lookup) for test in tests) for tests in parsed)


def of_records(filters: Sequence[str]) -> Filter:
    """`compile` for the services of records, where containerd says twice that an argument is invalid."""
    try:
        return compile(filters)
    except InvalidArgument as error:
        raise InvalidArgument(f"{error.message}: invalid argument") from None


def _always(_lookup: Lookup) -> bool:
    return True


# -- syntax -------------------------------------------------------------------------------------------------


class Token(NamedTuple):
    kind: str  # end field quoted value separator operator illegal
    position: int
    text: str


class _Syntax(Exception):
    """What is wrong, and at which character."""

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
        where = f"filters: parse error: {_pointed(text, error.position)}"
        raise InvalidArgument(f"{where}: {error.message}: invalid argument") from None


def _pointed(text: str, position: int) -> str:
    """The text with a mark around the byte (containerd counts bytes) at which reading it failed."""
    raw, at = text.encode(), len(text[:position].encode())
    if at >= len(raw):
        return f"[{text}]"
    before, byte, after = (
        part.decode("utf-8", "replace") for part in (raw[:at], raw[at : at + 1], raw[at + 1 :])
    )
    return f"[{before} >|{byte}|< {after}]"


_OPERATORS = "=!~"
_SEPARATORS = ",."
_QUOTES = '"/|'
_FIELD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")


# Go's unicode.IsSpace, which is not quite str.isspace.
_SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}


def _is_value(character: str) -> bool:
    # Go's IsGraphic: letters, marks, numbers, punctuation, symbols (and space separators).
    return character != "," and character not in _SPACES and unicodedata.category(character)[0] in "LMNPSZ"


class _Scanner:
    """Cuts the text into tokens. What a run of characters is depends on whether an operator went before it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._expects_value = False

    def peek(self) -> str:
        """The next character, "" at the end."""
        return self.text[self.position : self.position + 1]

    def scan(self) -> Token:
        while self.peek() in _SPACES:
            self.position += 1
        start = self.position
        first = self.peek()
        if not first:
            return Token("end", start, "")
        if first in _QUOTES:
            return self._quoted(start, first)
        self.position += 1
        if first in _SEPARATORS:
            self._expects_value = False
            return Token("separator", start, first)
        if first in _OPERATORS:
            self._expects_value = True
            return self._run("operator", start, _OPERATORS.__contains__)
        if self._expects_value:
            self._expects_value = False
            return self._run("value", start, _is_value)
        if first in _FIELD:
            return self._run("field", start, _FIELD.__contains__)
        return Token("illegal", start, "")

    def _run(self, kind: str, start: int, belongs: Callable[[str], bool]) -> Token:
        while self.position < len(self.text) and belongs(self.text[self.position]):
            self.position += 1
        return Token(kind, start, self.text[start : self.position])

    def _quoted(self, start: int, quote: str) -> Token:
        self.position += 1
        while character := self.peek():
            self.position += 1
            if character == quote:
                return Token("quoted", start, self.text[start : self.position])
            if character == "\\" and (problem := self._escape(quote)):
                return Token("illegal", start, problem)
        return Token("illegal", start, "quoted literal not terminated")

    def _escape(self, quote: str) -> str:
        """Step over what follows a backslash; what is wrong with it, or ""."""
        letter = self.peek()
        if letter and (letter in _ESCAPES or letter == quote):
            self.position += 1
            return ""
        if letter in _DIGITS:
            self.position += 1
            length, base = _DIGITS[letter], 16
        elif letter and letter in "01234567":
            length, base = 3, 8
        else:
            return "illegal escape sequence"
        digits = self.text[self.position : self.position + length]
        if len(digits) < length or not all(
            digit in _NUMERALS[:base] + _NUMERALS[:base].upper() for digit in digits
        ):
            return "illegal numeric escape sequence"
        self.position += length
        return ""


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
_DIGITS = {"x": 2, "u": 4, "U": 8}
_NUMERALS = "0123456789abcdef"
_REPLACEMENT = "\ufffd"


def _unquoted(token: Token, *, regexp: bool) -> str:
    quote, body = token.text[0], token.text[1:-1]
    if quote != '"' and not regexp:
        raise _Syntax(token.position, "invalid quote encountered")
    try:
        return _unescape(body)
    except ValueError:
        raise _Syntax(token.position, "unquoting failed: quote syntax error") from None


def _unescape(body: str) -> str:
    """Undo Go's escapes, whose form the scanner has checked. ValueError if a number is no character.

    \\x and octal escapes are bytes, so that "\\xc3\\xa9" is one letter.
    """
    parts: list[bytes] = []
    position = 0
    while position < len(body):
        if body[position] != "\\":
            parts.append(body[position].encode())
            position += 1
            continue
        letter = body[position + 1]
        length = 3 if letter in "01234567" else _DIGITS.get(letter, 0)
        start = position + (1 if letter in "01234567" else 2)
        position = start + length
        parts.append(_escaped(letter, body[start:position]))
    return b"".join(parts).decode("utf-8", "replace")


def _escaped(letter: str, digits: str) -> bytes:
    if not digits:
        return _ESCAPES.get(letter, letter).encode()
    if letter in "uU":
        code = int(digits, 16)
        return (_REPLACEMENT if 0xD800 <= code < 0xE000 else chr(code)).encode()
    return bytes([int(digits, 16 if letter == "x" else 8)])


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
        reason = error.args[0] if error.args else ""
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        log.warning("bad regexp in a filter matches nothing", regexp=value, error=text)
        return lambda _lookup: False
    return lambda lookup: pattern.search(lookup(path) or "") is not None


_TESTS: dict[str, Callable[[Sequence[str], str], Filter]] = {"==": _equal, "!=": _unequal, "~=": _search}
