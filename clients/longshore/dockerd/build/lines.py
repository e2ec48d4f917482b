"""A Dockerfile's text as a list of lines: instruction, flags, arguments. Nothing is expanded or checked yet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from longshore.api.errors import InvalidArgument

_SPACE: Final = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVE: Final = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC: Final = re.compile(r"(?:^|\s)\d*<<-?\s*['\"]?[a-zA-Z_][a-zA-Z0-9_.]*['\"]?(?:\s|$)")
_MAX_LINE: Final = 65535


class ParseError(InvalidArgument):
    """What is wrong with a Dockerfile, with the line."""


class Line(NamedTuple):
    """`arguments` is what the instruction's own syntax makes of the rest; `json`: it was a JSON array."""

    name: str
    """In lower case."""
    original: str
    flags: tuple[str, ...]
    arguments: tuple[str, ...]
    json: bool
    number: int
    """Of its first line, counted from 1."""


class Dockerfile(NamedTuple):
    lines: tuple[Line, ...]
    escape: str
    warnings: tuple[str, ...]


def parse(text: str) -> Dockerfile:
    """Raises ParseError."""
    joiner = _Joiner(text.removeprefix("\ufeff"))
    lines = tuple(_line(whole, number, joiner.escape) for whole, number in joiner.logical())
    if not lines:
        raise ParseError("file with no instructions")
    return Dockerfile(lines, joiner.escape, tuple(joiner.warnings))


def parse_line(text: str, escape: str = "\\") -> Line:
    """A single instruction (an ONBUILD trigger, a change of commit)."""
    return _line(text.strip(), 1, escape)


class _Joiner:
    """Joins continued lines, leaves comments out, notes the escape directive."""

    def __init__(self, text: str) -> None:
        self._physical = text.split("\n")
        if self._physical and not self._physical[-1]:
            self._physical.pop()
        self._empty: list[str] = []
        self._seen: set[str] = set()
        self._directives = True
        self._set_escape("\\")

    def _set_escape(self, escape: str) -> None:
        self.escape = escape
        token = re.escape(escape)
        self._continued = re.compile(rf"(^|[^{token}]){token}[ \t]*$")

    def logical(self) -> Iterator[tuple[str, int]]:
        """(whole line, number of its first line)."""
        place = 0
        while place < len(self._physical):
            number = place + 1
            text = self._physical[place].rstrip("\r").lstrip()
            place += 1
            self._directive(text, number)
            if not text or text.startswith("#"):
                continue
            text, more = self._cut(text, number)
            empty = False
            while more and place < len(self._physical):
                following = self._physical[place].rstrip("\r")
                place += 1
                if following.lstrip().startswith("#"):
                    continue
                if not following.strip():
                    empty = True
                    continue
                following, more = self._cut(following, place)
                text += following
            if empty:
                self._empty.append(f"[WARNING]: Empty continuation line found in:\n    {text}")
            if text.strip():
                yield text, number

    @property
    def warnings(self) -> list[str]:
        """About what has been joined so far."""
        if not self._empty:
            return []
        end = "[WARNING]: Empty continuation lines will become errors in a future release."
        return [*self._empty, end]

    def _cut(self, text: str, number: int) -> tuple[str, bool]:
        if len(text.encode()) > _MAX_LINE:
            raise ParseError(f"dockerfile line greater than max allowed size of {_MAX_LINE}")
        cut = self._continued.sub(r"\1", text)
        return cut, self._continued.search(text) is not None

    def _directive(self, text: str, number: int) -> None:
        """Directives stand before everything else, each once."""
        match = _DIRECTIVE.fullmatch(text) if self._directives else None
        if match is None:
            self._directives = False
            return
        name = match[1].lower()
        if name in self._seen:
            raise ParseError(f"only one {name} parser directive can be used")
        self._seen.add(name)
        if name == "escape":
            if match[2] not in ("\\", "`"):
                raise ParseError(f"invalid escape token '{match[2]}' does not match ` or \\")
            self._set_escape(match[2])


def _line(text: str, number: int, escape: str) -> Line:
    try:
        name, _, rest = _split_once(text.strip())
        flags, rest = _flags(rest, escape)
        rest = rest.strip()
        reader = _READERS.get(name.lower())
        arguments, is_json = reader(rest, escape) if reader else ((), False)
    except ValueError as error:
        raise ParseError(str(error)) from None
    if name.lower() in ("run", "copy", "add") and not is_json and _HEREDOC.search(rest):
        raise ParseError(f"line {number}: here-documents need BuildKit, which is not built in")
    return Line(name.lower(), text, tuple(flags), tuple(arguments), is_json, number)


def _split_once(text: str) -> tuple[str, str, str]:
    match = _SPACE.search(text)
    if match is None:
        return text, "", ""
    return text[: match.start()], match[0], text[match.end() :]


def _flags(text: str, escape: str) -> tuple[list[str], str]:
    """Leading words that begin with "--"; a lone "--" ends them."""
    flags: list[str] = []
    place = 0
    while True:
        while place < len(text) and text[place].isspace():
            place += 1
        if not text.startswith("--", place):
            return flags, text[place:]
        word, place = _flag_word(text, place, escape)
        if word == "--":
            return flags, text[place:]
        flags.append(word)


def _flag_word(text: str, place: int, escape: str) -> tuple[str, int]:
    """A word without its quotes and escapes, and where it ends."""
    word, quote = "", ""
    while place < len(text):
        character = text[place]
        if character == escape:
            place += 1
            word += text[place : place + 1]
        elif quote:
            if character == quote:
                quote = ""
            else:
                word += character
        elif character.isspace():
            break
        elif character in "'\"":
            quote = character
        else:
            word += character
        place += 1
    return word, place


def split_words(text: str, escape: str) -> list[str]:
    """At unquoted spaces; quotes and escapes stay in the words."""
    words: list[str] = []
    word, quote, begun = "", "", False
    place = 0
    while place < len(text):
        character = text[place]
        if not quote and character.isspace():
            if begun:
                words.append(word)
            word, begun = "", False
        else:
            begun = True
            if character == escape and quote != "'":
                if place + 1 == len(text):
                    break
                word += character
                place += 1
                character = text[place]
            elif quote:
                quote = "" if character == quote else quote
            elif character in "'\"":
                quote = character
            word += character
        place += 1
    return [*words, word] if word else words


_Read = tuple[tuple[str, ...], bool]


def _json_array(text: str) -> tuple[str, ...] | None:
    """None if it is no JSON array. Raises ValueError for one that holds something other than strings."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not all(isinstance(item, str) for item in found):
        raise ValueError("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(found)


def _string(text: str, escape: str) -> _Read:
    return ((text,) if text else ()), False


def _spaced(text: str, escape: str) -> _Read:
    return (tuple(_SPACE.split(text)) if text else ()), False


def _words(text: str, escape: str) -> _Read:
    return tuple(split_words(text, escape)), False


def _command(text: str, escape: str) -> _Read:
    array = _json_array(text)
    return (array, True) if array is not None else _string(text, escape)


def _list(text: str, escape: str) -> _Read:
    array = _json_array(text)
    return (array, True) if array is not None else _spaced(text, escape)


def _health(text: str, escape: str) -> _Read:
    kind, _, rest = text.partition(" ") if text else ("", "", "")
    if not kind:
        return (), False
    arguments, is_json = _command(rest.strip(), escape)
    return (kind, *arguments), is_json


def _trigger(text: str, escape: str) -> _Read:
    return (text.split(maxsplit=1)[0] if text else "",) if text else (), False


def _pairs(name: str) -> Callable[[str, str], _Read]:
    def read(text: str, escape: str) -> _Read:
        """key, value, delimiter; key, value, delimiter; ..."""
        words = split_words(text, escape)
        if not words:
            return (), False
        if "=" not in words[0]:
            parts = _SPACE.split(text, maxsplit=1)
            if len(parts) < 2:
                raise ValueError(f"{name} must have two arguments")
            return (parts[0], parts[1], ""), False
        found: list[str] = []
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                shown = json.dumps(word, ensure_ascii=False)
                raise ValueError(f"Syntax error - can't find = in {shown}. Must be of the form: name=value")
            found += [key, value, "="]
        return tuple(found), False

    return read


_READERS: Final[dict[str, Callable[[str, str], _Read]]] = {
    "add": _list,
    "arg": _words,
    "cmd": _command,
    "copy": _list,
    "entrypoint": _command,
    "env": _pairs("ENV"),
    "expose": _spaced,
    "from": _spaced,
    "healthcheck": _health,
    "label": _pairs("LABEL"),
    "maintainer": _string,
    "onbuild": _trigger,
    "run": _command,
    "shell": _command,
    "stopsignal": _string,
    "user": _string,
    "volume": _list,
    "workdir": _string,
}
