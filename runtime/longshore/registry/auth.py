"""Proving who we are to one host: basic authentication, or a token from the server that its challenge names.

With credentials, a token is asked for by POST (OAuth 2); servers that don't
know that are asked by GET with basic authentication; without credentials by a
bare GET. Tokens are kept per set of scopes until shortly before they expire.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

from longshore.registry.challenges import Challenge
from longshore.registry.credentials import Credentials, Provider
from longshore.registry.errors import BadConfiguration, Denied, RegistryError, Unauthorized, Unavailable
from longshore.registry.proxies import is_loopback

CLIENT_ID = "longshore-client"
SHORTEST_LIFE = 60.0  # seconds: what the specification assumes when a server doesn't say
RENEWED_BEFORE = 5.0  # seconds before its end a token is renewed, so that it doesn't end on the way
_NO_OAUTH = frozenset((400, 401, 403, 404, 405, 501))


class Answer(NamedTuple):
    status: int
    body: bytes


Ask = Callable[[str, str, Mapping[str, str], bytes | None], Awaitable[Answer]]
"""(method, url, headers, body) -> Answer; raises RegistryError when nobody answers."""


class Token(NamedTuple):
    value: str
    expires: float  # on the monotonic clock


class Authorizer:
    """What one host is told. `secure`: the host is reached by TLS."""

    def __init__(self, host: str, credentials: Provider, ask: Ask, *, secure: bool) -> None:
        self._host, self._provider, self._ask, self._secure = host, credentials, ask, secure
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, ...], Token] = {}
        self._lock = asyncio.Lock()

    async def header(self, scopes: Sequence[str]) -> str:
        """The Authorization header, "" as long as the host asked for none. Raises RegistryError."""
        if self._challenge is None:
            return ""
        if self._challenge.scheme == "basic":
            return _basic(await self._needed())
        async with self._lock:  # one token, however many layers wait for it
            token = self._tokens.get(tuple(sorted(scopes)))
            if token is None or token.expires < time.monotonic():
                token = self._tokens[tuple(sorted(scopes))] = await self._token(scopes)
        return f"Bearer {token.value}"

    def challenged(self, challenges: Sequence[Challenge], scopes: Sequence[str], sent: str) -> None:
        """The host said 401 to `sent`. Returns when another try makes sense; raises Unauthorized otherwise."""
        known = {challenge.scheme: challenge for challenge in reversed(challenges)}
        chosen = known.get("bearer") or known.get("basic")
        if chosen is None or (chosen.scheme == "bearer" and not chosen.parameters.get("realm")):
            raise Unauthorized(
                f"{self._host} wants authentication but offers no kind that we know"
                f" ({', '.join(known) or 'none named'})"
            )
        if sent.startswith("Basic ") and chosen.scheme == "basic":
            raise Unauthorized(
                f"{self._host} did not accept the user name or password",
                "check them with docker login",
                "unauthorized: authentication required",
            )
        self._challenge = chosen
        self._tokens.pop(tuple(sorted(scopes)), None)

    async def _needed(self) -> Credentials:
        found = await self._provider(self._host)
        if found is None:
            raise Unauthorized(
                f"{self._host} wants a user name and password",
                f"give --user, or docker login {self._host}",
                "no basic auth credentials",
            )
        return found

    async def _token(self, scopes: Sequence[str]) -> Token:
        assert self._challenge is not None
        parameters = self._challenge.parameters
        realm = urljoin(f"https://{self._host}/", parameters["realm"])
        if urlsplit(realm).scheme not in ("http", "https"):
            raise BadConfiguration(f"{self._host} names the token server {realm!r}, which is no web address")
        wanted = sorted({*scopes, *parameters.get("scope", "").split()})
        credentials = await self._provider(self._host)
        if credentials is not None:
            self._check_realm(realm)
        answer: Answer | None = None
        if credentials is not None:
            answer = await self._oauth(realm, parameters.get("service", ""), wanted, credentials)
            if answer.status in _NO_OAUTH and credentials.username:
                answer = None
        if answer is None:
            answer = await self._plain(realm, parameters.get("service", ""), wanted, credentials)
        return self._read(realm, answer, credentials)

    def _check_realm(self, realm: str) -> None:
        parts = urlsplit(realm)
        if self._secure and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise Denied(
                f"{self._host} is reached by TLS, but wants the password sent to {realm} in the clear",
                "ask the registry's administrator to give its token server TLS",
            )

    async def _oauth(
        self, realm: str, service: str, scopes: Sequence[str], credentials: Credentials
    ) -> Answer:
        form = {"client_id": CLIENT_ID, "service": service}
        if scopes:
            form["scope"] = " ".join(scopes)
        if credentials.username:
            form |= {
                "grant_type": "password",
                "username": credentials.username,
                "password": credentials.secret,
            }
        else:
            form |= {"grant_type": "refresh_token", "refresh_token": credentials.secret}
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return await self._ask("POST", realm, headers, urlencode(form).encode())

    async def _plain(
        self, realm: str, service: str, scopes: Sequence[str], credentials: Credentials | None
    ) -> Answer:
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        headers = {"Authorization": _basic(credentials)} if credentials else {}
        mark = "&" if urlsplit(realm).query else "?"
        return await self._ask("GET", f"{realm}{mark}{urlencode(query)}" if query else realm, headers, None)

    def _read(self, realm: str, answer: Answer, credentials: Credentials | None) -> Token:
        if answer.status != 200:
            raise self._refusal(realm, answer, credentials)
        try:
            data: Any = json.loads(answer.body)
            value = data.get("token") or data["access_token"]
            life = float(data.get("expires_in") or SHORTEST_LIFE)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Unauthorized(f"token server {realm} of {self._host} answered without a token") from None
        return Token(str(value), time.monotonic() + max(life, SHORTEST_LIFE) - RENEWED_BEFORE)

    def _refusal(self, realm: str, answer: Answer, credentials: Credentials | None) -> RegistryError:
        said = f"token server {realm} of {self._host} answered {answer.status}"
        if answer.status >= 500 or answer.status == 429:
            return Unavailable(said, "try again later")
        if answer.status == 403:
            return Denied(said, said="denied: requested access to the resource is denied")
        hint = (
            "check the user name and password"
            if credentials
            else f"give --user, or docker login {self._host}"
        )
        return Unauthorized(said, hint, "unauthorized: incorrect username or password")


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.secret}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
