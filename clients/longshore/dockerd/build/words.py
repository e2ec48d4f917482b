"""Words of a Dockerfile as the shell reads them: quotes, escapes, and $variables with their modifiers.

`Expander.word` makes one string of it, `Expander.words` splits what has been
expanded at its unquoted spaces. Modifiers: ``:-`` ``-`` ``:+`` ``+`` ``:?``
``?`` ``#`` ``##`` ``%`` ``%%`` ``/`` ``//``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from longshore.api.errors import InvalidArgument

_SPECIAL: Final = "@*#?-$!0"
_END: Final = ""


class _Failure(Exception):
    """Why a word can't be processed."""


class Expander:
    """For one set of variables; `escape` is the Dockerfile's escape character."""

    def __init__(self, escape: str, variables: Mapping[str, str]) -> None:
        self._escape, self._variables = escape, variables

    def word(self, text: str) -> str:
        """Raises InvalidArgument: "failed to process ..."."""
        return "".join(piece for piece, _ in self._pieces(text))

    def words(self, text: str) -> list[str]:
        """Split after expansion; what was quoted isn't split."""
        words: list[str] = []
        current = ""
        for piece, quoted in self._pieces(text):
            if quoted:
                current += piece
                continue
            for part in re.split(r"(\s)", piece):
                if not part.isspace():
                    current += part
                elif current:
                    words.append(current)
                    current = ""
        return [*words, current] if current else words

    def _pieces(self, text: str) -> list[tuple[str, bool]]:
        try:
            return _Scanner(text, self._escape, self._variables).until(_END)
        except _Failure as failure:
            quoted = json.dumps(text, ensure_ascii=False)
            raise InvalidArgument(f"failed to process {quoted}: {failure}") from None


class _Scanner:
    def __init__(self, text: str, escape: str, variables: Mapping[str, str]) -> None:
        self._text, self._place = text, 0
        self._escape, self._variables = escape, variables

    def _peek(self) -> str:
        return self._text[self._place : self._place + 1]

    def _next(self) -> str:
        character = self._peek()
        self._place += 1
        return character

    def until(self, stop: str, *, raw: bool = False) -> list[tuple[str, bool]]:
        """Pieces up to `stop`, which is taken too; each with whether it was quoted. `raw` keeps escapes."""
        pieces: list[tuple[str, bool]] = []
        while (character := self._peek()) != _END:
            if stop and character == stop:
                self._place += 1
                return pieces
            if character == "'":
                pieces.append((self._single_quoted(), True))
            elif character == '"':
                pieces.append((self._double_quoted(raw), True))
            elif character == "$":
                pieces.append((self._dollar(), False))
            elif character == self._escape:
                self._place += 1
                if raw:
                    pieces.append((character, True))
                if self._peek() == _END:
                    break
                pieces.append((self._next(), True))
            else:
                pieces.append((self._next(), False))
        if stop:
            raise _Failure(f"unexpected end of statement while looking for matching {stop}")
        return pieces

    def _text_until(self, stop: str, *, raw: bool, missing: str) -> str:
        try:
            return "".join(piece for piece, _ in self.until(stop, raw=raw))
        except _Failure:
            if self._peek() == _END:
                raise _Failure(f"syntax error: missing {missing}") from None
            raise

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._place + 1)
        if end < 0:
            raise _Failure("unexpected end of statement while looking for matching single-quote")
        found = self._text[self._place + 1 : end]
        self._place = end + 1
        return found

    def _double_quoted(self, raw: bool) -> str:
        self._place += 1
        found = ""
        while (character := self._peek()) != '"':
            if character == _END:
                raise _Failure("unexpected end of statement while looking for matching double-quote")
            if character == "$":
                found += self._dollar()
                continue
            self._place += 1
            if character == self._escape:
                following = self._peek()
                found += character if raw else ""
                if following == _END:
                    continue
                if following in ('"', "$", self._escape):
                    character = self._next()
            found += character
        self._place += 1
        return found

    def _dollar(self) -> str:
        self._place += 1
        if self._peek() != "{":
            name = self._name()
            return self._variables.get(name, "") if name else "$"
        self._place += 1
        if self._peek() == _END:
            raise _Failure("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise _Failure("syntax error: bad substitution")
        name = self._name()
        value = self._variables.get(name)
        operator = self._next()
        if operator == "}":
            return value or ""
        if operator == ":":
            operator += self._next()
        if operator == "/":
            return self._replaced(value or "")
        if operator in ("#", "%"):
            return self._trimmed(value or "", operator)
        if operator in ("-", "+", "?", ":-", ":+", ":?"):
            return self._chosen(name, value, operator)
        if not operator:
            raise _Failure("syntax error: missing '}'")
        raise _Failure(f"unsupported modifier ({operator}) in substitution")

    def _name(self) -> str:
        match = re.compile(r"\d+|[^\W\d]\w*").match(self._text, self._place)
        if match is None:
            if self._peek() and self._peek() in _SPECIAL:
                return self._next()
            return ""
        self._place = match.end()
        return match[0]

    def _chosen(self, name: str, value: str | None, operator: str) -> str:
        word = self._text_until("}", raw=False, missing="'}'")
        lacking = value is None or (operator[0] == ":" and not value)
        match operator[-1]:
            case "-":
                return word if lacking else value or ""
            case "+":
                return "" if lacking else word
        if lacking:
            what = "unset" if value is None else "empty"
            raise _Failure(f"{name}: {word or f'is not allowed to be {what}'}")
        return value or ""

    def _trimmed(self, value: str, operator: str) -> str:
        pattern = self._text_until("}", raw=True, missing="'}'")
        greedy = pattern.startswith(operator)
        expression = _expression(pattern[1:] if greedy else pattern, greedy=True)
        ends = [place for place in range(len(value) + 1) if _matches(expression, value, place, operator)]
        if not ends:
            return value
        if operator == "#":
            return value[max(ends) if greedy else min(ends) :]
        return value[: min(ends) if greedy else max(ends)]

    def _replaced(self, value: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._place += 1
        pattern = self._text_until("/", raw=True, missing="'/' in ${}")
        replacement = self._text_until("}", raw=True, missing="'}'")
        expression = re.compile(_expression(pattern, greedy=True), re.DOTALL)
        return expression.sub(lambda _: replacement, value, count=0 if everywhere else 1)


def _matches(expression: str, value: str, place: int, operator: str) -> bool:
    part = value[:place] if operator == "#" else value[place:]
    return re.fullmatch(expression, part, re.DOTALL) is not None


def _expression(pattern: str, *, greedy: bool) -> str:
    """A shell pattern (* ? and \\ escapes) as a regular expression."""
    found, place = "", 0
    while place < len(pattern):
        character = pattern[place]
        if character == "*":
            found += ".*" if greedy else ".*?"
        elif character == "?":
            found += "."
        elif character == "\\" and place + 1 < len(pattern):
            place += 1
            found += re.escape(pattern[place])
        else:
            found += re.escape(character)
        place += 1
    return found
