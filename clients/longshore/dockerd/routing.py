"""From a request's method and path to a route, and which version of the API is spoken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from longshore.api import errors
from longshore.dockerd.http import Route, Version

OLDEST: Final[Version] = (1, 24)
NEWEST: Final[Version] = (1, 48)

_PREFIX = re.compile(r"/v(\d{1,4})\.(\d{1,4})(/.*)?\Z", re.DOTALL)
_FIELD = re.compile(r"\{(\w+)\}")


def text(version: Version) -> str:
    return "{}.{}".format(*version)


def split_version(path: str) -> tuple[Version, str]:
    """The version that the client asks for (without one: the newest) and the rest of the path. InvalidArgument."""
    found = _PREFIX.match(path)
    if found is None:
        return NEWEST, path
    asked = int(found[1]), int(found[2])
    if asked < OLDEST:
        raise errors.InvalidArgument(
            f"client version {text(asked)} is too old. Minimum supported API version is {text(OLDEST)},"
            " please upgrade your client to a newer version"
        )
    if asked > NEWEST:
        raise errors.InvalidArgument(
            f"client version {text(asked)} is too new. Maximum supported API version is {text(NEWEST)}"
        )
    return asked, found[3] or "/"


class Match(NamedTuple):
    route: Route
    path: Mapping[str, str]


class Table:
    """The routes of all modules. Of several that fit, the one with the most literal text is meant."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes: dict[str, list[tuple[re.Pattern[str], Route]]] = {}
        for route in sorted(routes, key=_literals, reverse=True):
            self._routes.setdefault(route.method, []).append((_pattern(route.path), route))

    def find(self, method: str, path: str, version: Version) -> Match:
        """`path` is still percent-encoded. NotFound: "page not found"."""
        # HEAD is GET without a body where no route of its own says more.
        for tried in (method, "GET") if method == "HEAD" else (method,):
            for pattern, route in self._routes.get(tried, ()):
                found = pattern.match(path) if version >= route.since else None
                if found is not None:
                    return Match(route, {name: unquote(value) for name, value in found.groupdict().items()})
        raise errors.NotFound("page not found")


def _literals(route: Route) -> int:
    return len(_FIELD.sub("", route.path))


def _pattern(path: str) -> re.Pattern[str]:
    parts = _FIELD.split(path)
    literals, fields = parts[::2], parts[1::2]
    pattern = re.escape(literals[0])
    for field, literal in zip(fields, literals[1:], strict=True):
        pattern += f"(?P<{field}>.+)" + re.escape(literal)
    return re.compile(pattern + r"\Z", re.DOTALL)
