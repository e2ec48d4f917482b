"""Patterns of file names: those of COPY sources, and those of .dockerignore."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Final

_WILD: Final = re.compile(r"(?<!\\)[*?\[]")


def has_wildcards(path: str) -> bool:
    return _WILD.search(path) is not None


def glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stop at slashes, `[a-z]` and `[^a-z]` are classes, a backslash takes the next one as it is.

    Raises ValueError for what is no pattern.
    """
    return re.compile(_translated(pattern, stars=False), re.DOTALL)


def ignored(path: str, patterns: Sequence[str]) -> bool:
    """Whether .dockerignore's lines leave `path` out: the last that matches it, or a folder above it, decides."""
    parts = path.split("/")
    found = False
    for pattern in patterns:
        exception = pattern.startswith("!")
        expression = re.compile(_translated(pattern.removeprefix("!"), stars=True), re.DOTALL)
        if any(expression.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1)):
            found = not exception
    return found


def ignore_file(text: str) -> list[str]:
    """The patterns of a .dockerignore."""
    found = []
    for line in text.removeprefix("\ufeff").splitlines():
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        exception = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip()
        if pattern:
            pattern = posixpath.normpath(pattern)
            pattern = pattern.lstrip("/") if len(pattern) > 1 else pattern
        found.append(f"!{pattern}" if exception else pattern)
    return found


def _translated(pattern: str, *, stars: bool) -> str:
    """`stars`: two stars cross slashes."""
    found, place = "", 0
    while place < len(pattern):
        character = pattern[place]
        if character == "*":
            if stars and pattern.startswith("**", place):
                place += 1
                if pattern.startswith("/", place + 1):
                    place += 1
                    found += "(?:.*/)?"
                else:
                    found += ".*"
            else:
                found += "[^/]*"
        elif character == "?":
            found += "[^/]"
        elif character == "[":
            piece, place = _class(pattern, place)
            found += piece
        elif character == "\\":
            place += 1
            if place == len(pattern):
                raise ValueError("syntax error in pattern")
            found += re.escape(pattern[place])
        else:
            found += re.escape(character)
        place += 1
    return found


def _class(pattern: str, place: int) -> tuple[str, int]:
    """The class that begins at `place` as an expression, and the place of its end."""
    end = pattern.find("]", place + 2)
    if end < 0:
        raise ValueError("syntax error in pattern")
    inside = pattern[place + 1 : end]
    negated = inside.startswith("^")
    inside = inside.removeprefix("^")
    escaped = re.sub(r"([\[\]&~|^])", r"\\\1", inside)
    return f"[{'^' if negated else ''}{escaped}]", end
