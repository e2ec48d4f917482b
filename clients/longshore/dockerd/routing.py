"""From a request's method and path to a route, and which version of the API is spoken."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from longshore.api import errors
from longshore.dockerd.http import Route, Version

OLDEST: Final[Version] = (1, 24)
NEWEST: Final[Version] = (1, 48)

_PREFIX = re.compile(r"/v(\d[\d.]{0,16})(/.*)?\Z", re.DOTALL)
_FIELD = re.compile(r"\{(\w+)\}")


def text(version: Version) -> str:
    return "{}.{}".format(*version)


def split_version(path: str) -> tuple[Version, str]:
    """The version that the client asks for (without one: the newest), as it stands there, and the rest of the path."""
    found = _PREFIX.match(path)
    if found is None:
        return NEWEST, path
    numbers = [int(part or 0) for part in found[1].split(".")]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0), found[2] or "/"


def check_version(asked: Version) -> None:
    """Raises InvalidArgument for one that isn't spoken here."""
    if asked < OLDEST:
        raise errors.InvalidArgument(
            f"client version {text(asked)} is too old. Minimum supported API version is {text(OLDEST)},"
            " please upgrade your client to a newer version"
        )
    if asked > NEWEST:
        raise errors.InvalidArgument(
            f"client version {text(asked)} is too new. Maximum supported API version is {text(NEWEST)}"
        )


def cleaned(path: str) -> str:
    """Without the double slashes and dots of clients that put a URL together carelessly."""
    clean = "/" + posixpath.normpath(path or "/").lstrip("/")
    return clean + "/" if path.endswith("/") and clean != "/" else clean


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
        version = max(version, OLDEST)
        # HEAD is GET without a body where no route of its own says more.
        for tried in (method, "GET") if method == "HEAD" else (method,):
            for pattern, route in self._routes.get(tried, ()):
                found = pattern.match(path) if version >= route.since else None
                if found is not None:
                    return Match(route, {name: unquote(value) for name, value in found.groupdict().items()})
        if (plain := unquote(path)) != path:
            return self.find(method, plain, version)
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
