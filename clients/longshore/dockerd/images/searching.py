"""GET /images/search: asked of Docker Hub's index, or of a registry that still has version 1's search."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from longshore.api.errors import InvalidArgument
from longshore.dockerd.errors import ServerError
from longshore.dockerd.images import registries
from longshore.dockerd.images.registries import Auth

if TYPE_CHECKING:
    from longshore.dockerd.config import Config

FILTERS: Final = frozenset(("stars", "is-official", "is-automated"))
HUB: Final = "index.docker.io"
_MOST: Final = 100
_USUAL: Final = 25
_SECONDS: Final = 30.0


class Found(msgspec.Struct, kw_only=True):
    """One of the answer's results."""

    star_count: int = 0
    is_official: bool = False
    name: str = ""
    is_automated: bool = False
    description: str = ""


class _Page(msgspec.Struct):
    results: list[Found] | None = None


async def search(
    config: Config, term: str, limit: str, filters: Mapping[str, Sequence[str]], auth: Auth
) -> list[Found]:
    """Raises InvalidArgument (the limit, a filter, the term), ServerError with the registry's reason."""
    count = _limit(limit)
    wanted = _wanted(filters)
    if "://" in term:
        raise InvalidArgument('Invalid repository name (ex: "registry.domain.tld/myrepos")')
    domain, words = _split(term)
    insecure = registries.is_insecure(domain, config.insecure_registries)
    tail = f"{domain}/v1/search?q={quote(words, safe='')}&n={count}"
    data = await _asked(tail, domain, insecure, auth)
    try:
        page = msgspec.json.decode(data, type=_Page)
    except msgspec.DecodeError as error:
        raise ServerError(f"error unmarshalling the answer of https://{tail}: {error}") from None
    return [found for found in page.results or () if wanted(found)]


def _limit(text: str) -> int:
    try:
        count = int(text or 0)
    except ValueError:
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax') from None
    if not 0 <= count <= _MOST:
        raise InvalidArgument(f"Limit {count} is outside the range of [1, {_MOST}]")
    return count or _USUAL


def _wanted(filters: Mapping[str, Sequence[str]]) -> Any:
    flags = {
        name: _flag(name.replace("_", "-"), filters)
        for name in ("is_official", "is_automated")
        if name.replace("_", "-") in filters
    }
    stars = [_number(text) for text in filters.get("stars", ())]

    def fits(found: Found) -> bool:
        return all(found.star_count >= least for least in stars) and all(
            getattr(found, name) == flag for name, flag in flags.items()
        )

    return fits


def _flag(name: str, filters: Mapping[str, Sequence[str]]) -> bool:
    values = set(filters[name])
    if values <= {"true", "1"}:
        return True
    if values <= {"false", "0"}:
        return False
    raise InvalidArgument(f"Invalid filter '{name}=[{' '.join(filters[name])}]'")


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"Invalid filter 'stars={text}'") from None


def _split(term: str) -> tuple[str, str]:
    """The registry's address and what is looked for there."""
    first, slash, rest = term.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return HUB, term.removeprefix("library/")
    if first in ("docker.io", HUB):
        return HUB, rest.removeprefix("library/")
    return first, rest


async def _asked(tail: str, domain: str, insecure: bool, auth: Auth) -> bytes:
    import aiohttp
    from yarl import URL

    user, secret = auth.pair
    login = base64.b64encode(f"{user}:{secret}".encode()).decode()
    headers = {"Authorization": f"Basic {login}"} if user else {}
    failures = []
    for scheme in ("https", "http") if insecure else ("https",):
        url = f"{scheme}://{tail}"
        try:
            async with (
                aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(_SECONDS)) as session,
                session.get(URL(url, encoded=True), ssl=_trust(domain, insecure), headers=headers) as answer,
            ):
                if answer.status != 200:
                    raise ServerError(f"Unexpected status code {answer.status}")
                return await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failures.append(f'Get "{url}": {error or "it did not answer"}')
    raise ServerError(". ".join(failures))


def _trust(domain: str, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        for file in Path(registries.CERTIFICATES, domain).glob("*.crt"):
            context.load_verify_locations(file)
    return context
