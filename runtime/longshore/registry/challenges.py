"""WWW-Authenticate: what a registry wants to see before it answers (RFC 9110, 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    r"(?:\"((?:[^\"\\]|\\.)*)\"|([!#$%&'*+.^_`|~0-9A-Za-z:/?-]+))"
)


class Challenge(NamedTuple):
    """Scheme in lower case; parameter names too."""

    scheme: str
    parameters: Mapping[str, str]


def parse(values: Iterable[str]) -> list[Challenge]:
    """All challenges of all header lines, in order. What can't be read is left out."""
    return [challenge for value in values for challenge in _line(value)]


def _line(text: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        if text[at] in ", \t":
            at += 1
            continue
        parameter = _PARAMETER.match(text, at)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            found[-1][1].setdefault(name.lower(), value)
            at = parameter.end()
            continue
        scheme = _TOKEN.match(text, at)
        if scheme is None:  # a token68 or nonsense: the next comma starts afresh
            at = text.find(",", at)
            if at < 0:
                break
            continue
        found.append((scheme[0].lower(), {}))
        at = scheme.end()
    return [Challenge(scheme, parameters) for scheme, parameters in found]
