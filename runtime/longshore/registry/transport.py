"""Requests to one host after another: TLS, proxies, redirects, authentication, retries.

`Transport.request` is the only way out. It answers with a response whose
status the caller expects, or raises an error of `longshore.registry.errors`:
no aiohttp exception leaves this module, but for the bodies of streams, which
`failure` translates.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from longshore.registry import challenges, tls
from longshore.registry.auth import Answer, Authorizer
from longshore.registry.credentials import Provider, anonymous
from longshore.registry.errors import (
    BadConfiguration,
    Denied,
    NotFound,
    RateLimited,
    Refused,
    RegistryError,
    Unauthorized,
    Unavailable,
    Untrusted,
)
from longshore.registry.hosts import Host
from longshore.registry.policy import DEFAULT_POLICY, RETRIED_STATUSES, Policy, retry_after
from longshore.registry.proxies import proxy_for

Body = Callable[[], bytes | AsyncIterator[bytes]]
"""Makes a request's body afresh for every try."""

REDIRECTS = frozenset((301, 302, 303, 307, 308))
MOST_REDIRECTS = 10
MOST_LOGINS = 3  # a challenge, an expired token, a wider scope
LARGEST_ERROR = 64 << 10  # bytes read of an error's body
LARGEST_TOKEN = 1 << 20
READ_BUFFER = 1 << 20
USER_AGENT = "longshore"

CONNECTION_ERRORS = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


class Request(NamedTuple):
    """`path` comes after the host's own (``/name/manifests/tag``), or is a whole address."""

    method: str
    path: str
    scopes: tuple[str, ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = {}
    body: Body | None = None


class Transport:
    """A pool of connections. Use it as an async context manager, on one event loop."""

    def __init__(
        self,
        *,
        credentials: Provider = anonymous,
        policy: Policy = DEFAULT_POLICY,
        headers: Sequence[tuple[str, str]] = (),
        trace: Callable[[str], None] | None = None,
        environ: Mapping[str, str] | None = None,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self.policy = policy
        self._credentials, self._headers, self._trace = credentials, tuple(headers), trace
        self._environ = os.environ if environ is None else environ
        self._sleep = sleep
        self._authorizers: dict[Host, Authorizer] = {}
        self._plain: set[str] = set()  # loopback hosts found to have no TLS
        self._answered: set[str] = set()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def request(
        self, host: Host, request: Request, expected: Collection[int], *, attempts: int | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response, once its status is one of `expected`. Raises RegistryError for any other.

        `attempts` bounds the tries where the policy's number is too many.
        """
        attempt = 0
        while True:
            attempt += 1
            wait: float | None = None
            try:
                response = await self._logged_in(host, request)
            except CONNECTION_ERRORS as error:
                problem = failure(host, error)
            else:
                self._answered.add(host.address)
                if response.status in expected:
                    break
                wait = retry_after(response.headers.get("Retry-After"))
                problem = await refusal(host, request, response)
                if response.status not in RETRIED_STATUSES:
                    raise problem
            if not isinstance(problem, Unavailable | RateLimited) or attempt >= (
                attempts or self._attempts(host)
            ):
                raise problem
            await self._sleep(self.policy.delay(attempt, wait))
        try:
            yield response
        finally:
            response.release() if response.content.at_eof() else response.close()

    def _attempts(self, host: Host) -> int:
        """A host that never answered may not be there at all: a second try, and on to the next."""
        return self.policy.attempts if host.address in self._answered else min(2, self.policy.attempts)

    async def _logged_in(self, host: Host, request: Request) -> aiohttp.ClientResponse:
        authorizer = self._authorizer(host)
        for _ in range(MOST_LOGINS):
            sent = await authorizer.header(request.scopes)
            response = await self._followed(host, request, sent)
            if response.status != 401:
                return response
            wanted = challenges.parse(response.headers.getall("WWW-Authenticate", []))
            response.close()
            authorizer.challenged(wanted, request.scopes, sent)
        raise Unauthorized(
            f"{host.address} refuses the tokens of its own token server for {' '.join(request.scopes) or 'this'}",
            f"you may lack the right: ask the owner of the repository, or docker login {host.address}",
            "denied: requested access to the resource is denied",
        )

    def _authorizer(self, host: Host) -> Authorizer:
        found = self._authorizers.get(host)
        if found is None:

            async def ask(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
                return await self._ask_token_server(host, method, url, headers, body)

            secure = host.scheme == "https" and host.address not in self._plain
            found = Authorizer(host.address, self._credentials, ask, secure=secure)
            self._authorizers[host] = found
        return found

    async def _ask_token_server(
        self, host: Host, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        attempt = 0
        while True:
            attempt += 1
            wait: float | None = None
            try:
                response = await self._send(host, method, URL(url, encoded=True), headers, body)
                answer = Answer(response.status, await _bounded(response, LARGEST_TOKEN))
                response.close()
                wait = retry_after(response.headers.get("Retry-After"))
            except CONNECTION_ERRORS as error:
                if attempt >= self.policy.attempts:
                    problem = failure(host, error)
                    raise type(problem)(f"token server {url.partition('?')[0]}: {problem.message}") from None
            else:
                if answer.status not in RETRIED_STATUSES or attempt >= self.policy.attempts:
                    return answer
            await self._sleep(self.policy.delay(attempt, wait))

    async def _followed(self, host: Host, request: Request, authorization: str) -> aiohttp.ClientResponse:
        """Send it, and follow redirects. Another origin gets neither our authorization nor the host's headers."""
        url = self._url(host, request)
        origin, own = url.origin(), [*self._headers, *host.headers]
        for _ in range(MOST_REDIRECTS):
            headers = CIMultiDict(request.headers)
            headers["Accept-Encoding"] = "identity"
            if url.origin() == origin:
                headers.extend(own)
                if authorization:
                    headers["Authorization"] = authorization
            body = request.body() if request.body is not None else None
            response = await self._send(host, request.method, url, headers, body)
            target = response.headers.get("Location")
            if response.status not in REDIRECTS or not target or request.method not in ("GET", "HEAD"):
                return response
            response.release()
            url = url.join(URL(target, encoded=True))
            if url.scheme not in ("http", "https"):
                raise Refused(f"{host.address} redirects to {url.scheme}:, which is no web address")
        raise Refused(f"{host.address} redirects in circles: {request.method} {request.path}")

    def _url(self, host: Host, request: Request) -> URL:
        whole = request.path.startswith(("http://", "https://"))
        text = request.path if whole else f"{host.url}{request.path}"
        if request.query:
            text += ("&" if "?" in text else "?") + urlencode(request.query)
        url = URL(text, encoded=True)
        if host.address in self._plain and url.authority == host.address:
            url = url.with_scheme("http")
        return url

    async def _send(
        self,
        host: Host,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> aiohttp.ClientResponse:
        try:
            return await self._once(host, method, url, headers, body)
        except (aiohttp.ClientConnectorSSLError, ssl.SSLError, ConnectionResetError) as error:
            local = host.may_be_plain and url.scheme == "https" and url.authority == host.address
            if not local or isinstance(error, aiohttp.ClientConnectorCertificateError):
                raise
            self._plain.add(host.address)
            return await self._once(host, method, url.with_scheme("http"), headers, body)

    async def _once(
        self,
        host: Host,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> aiohttp.ClientResponse:
        policy = self.policy
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=host.dial_timeout or policy.dial_timeout,
            sock_read=None if body is not None else max(policy.answer_timeout, policy.stall_after),
        )
        self._note(f"> {method} {url}", headers)
        response = await self._opened().request(
            method,
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            proxy=proxy_for(str(url), self._environ) or None,
            ssl=tls.context(host.tls),
            timeout=timeout,
        )
        self._note(f"< {response.status} {response.reason}", response.headers)
        return response

    def _note(self, line: str, headers: Mapping[str, str]) -> None:
        if self._trace is not None:
            hidden = {"authorization", "cookie", "set-cookie"}
            lines = [f"  {k}: {'...' if k.lower() in hidden else v}" for k, v in headers.items()]
            self._trace("\n".join([line, *lines]))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
                headers={"User-Agent": USER_AGENT},
                read_bufsize=READ_BUFFER,
            )
        return self._session


def failure(host: Host, error: BaseException) -> RegistryError:
    """What a broken connection means."""
    if isinstance(error, RegistryError):
        return error
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        reason = getattr(getattr(error, "certificate_error", error), "verify_message", "") or str(error)
        return Untrusted(
            f"{host.address}: its certificate is not trusted: {reason.lower()}",
            "give its authority with --tlscacert, or as ca in hosts.toml",
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Unavailable(f"{host.address}: the proxy answered {error.status} {error.message}")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return Unavailable(
            f"the proxy for {host.address} can't be reached: {_cause(error)}", "see HTTPS_PROXY"
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return Untrusted(
            f"{host.address}: no TLS connection: {_cause(error)}",
            "a registry without TLS wants --plain-http; one may also want a client certificate",
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unavailable(f"{host.address}: no such host", "check the name, and the network's DNS")
    if isinstance(error, asyncio.TimeoutError):
        return Unavailable(f"{host.address}: no answer in time", "check the network, or try again later")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unavailable(f"{host.address}: {_cause(error)}", "is the registry running, and the port right?")
    if isinstance(error, aiohttp.InvalidURL):
        return BadConfiguration(f"{error} is no address")
    return Unavailable(
        f"{host.address}: the connection broke: {_cause(error)}", "try again: what came is kept"
    )


def _cause(error: BaseException) -> str:
    found: BaseException = getattr(error, "os_error", error)
    if isinstance(found, ssl.SSLError) and found.reason:
        return found.reason.lower().replace("_", " ")
    if isinstance(found, OSError) and found.errno and not isinstance(found, socket.gaierror):
        return os.strerror(found.errno).lower()
    return str(found) or type(found).__name__


async def refusal(host: Host, request: Request, response: aiohttp.ClientResponse) -> RegistryError:
    """An unexpected status as an error, with what the registry says about it. Ends the response."""
    try:
        body = await _bounded(response, LARGEST_ERROR)
    except CONNECTION_ERRORS:
        body = b""
    finally:
        response.close()
    found = _refusal(host, request, response.status, _explanation(body))
    found.said = _reason(body)
    return found


def _refusal(host: Host, request: Request, status: int, said: str) -> RegistryError:
    deed = f"{host.address} answered {status} to {request.method} {request.path.partition('?')[0]}"
    message = f"{deed}: {said}" if said else deed
    if status == 404:
        return NotFound(message, "check name and tag; some registries also hide what you may not see")
    if status == 401:
        return Unauthorized(message, f"give --user, or docker login {host.address}")
    if status == 403:
        return Denied(message, "you lack the right to do this in that repository")
    if status == 429:
        return RateLimited(message, "wait, or log in: registries allow their users more")
    if status >= 500 or status == 408:
        return Unavailable(message, "the registry has a problem: try again later")
    return Refused(message)


def _explanation(body: bytes) -> str:
    """The errors of the distribution specification, or the beginning of some other text."""
    try:
        listed = json.loads(body)["errors"]
        return "; ".join(f"{e.get('code', '')} {e.get('message', '')}".strip() for e in listed)[:500]
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body.decode(errors="replace").strip()
        return "" if text.startswith("<") else " ".join(text.split())[:200]


def _reason(body: bytes) -> str:
    """The first of the specification's errors, as Docker prints them: "name unknown: repository ..."."""
    try:
        first = json.loads(body)["errors"][0]
        code = str(first["code"]).lower().replace("_", " ")
        return f"{code}: {first.get('message') or code}"[:500]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return ""


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """At most `limit` bytes of a body."""
    parts: list[bytes] = []
    total = 0
    while total < limit and (part := await response.content.read(min(1 << 16, limit - total))):
        parts.append(part)
        total += len(part)
    return b"".join(parts)
