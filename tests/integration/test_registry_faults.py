"""The client library against a registry that lies, breaks off, hangs, and is overloaded."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from longshore.registry.client import Options, Registry, Repository
from longshore.registry.credentials import Credentials, static
from longshore.registry.documents import Descriptor
from longshore.registry.errors import (
    BadConfiguration,
    BadContent,
    Denied,
    NotFound,
    RateLimited,
    RegistryError,
    Unauthorized,
    Unavailable,
    Untrusted,
)
from longshore.registry.hosts import TLS, Settings
from longshore.registry.policy import Policy
from longshore.registry.push import Pushed
from support.badregistry import HANGS, OCI_MANIFEST, BadRegistry, digest_of, statuses, times

FAST = Policy(
    attempts=4, first_delay=0.01, longest_delay=0.05, longest_wait=2, stall_after=60, answer_timeout=60
)
IMPATIENT = FAST._replace(stall_after=0.3)  # where there is a stall: elsewhere it would be a slow machine's
BLOB = os.urandom(3 << 20)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def options(**fields: Any) -> Options:
    return Options(policy=fields.pop("policy", FAST), **fields)


def described(data: bytes, size: int | None = None) -> Descriptor:
    return Descriptor("application/octet-stream", digest_of(data), len(data) if size is None else size)


async def read(repository: Repository, blob: Descriptor, offset: int = 0) -> bytes:
    return b"".join([block async for block in repository.open(blob, offset)])


def mirrors(folder: Path, name: str, *addresses: str, server: str = "") -> Settings:
    (folder / name).mkdir()
    text = f'server = "{server}"\n' if server else ""
    text += "".join(f'[host."http://{address}"]\n' for address in addresses)
    (folder / name / "hosts.toml").write_text(text)
    return Settings(str(folder))


# -- resolving ------------------------------------------------------------------------------------------------


async def test_resolve_and_fetch() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        found = server.add_image("1", [BLOB], ["sha256:" + "0" * 64])
        repository = registry.repository(f"{server.address}/a/b:1")
        top = await repository.resolve()
        assert top == Descriptor(OCI_MANIFEST, found["digest"], found["size"])
        document = await repository.document(top)
        assert await read(repository, document.layers[0]) == BLOB
        assert await read(repository, document.layers[0], 1000) == BLOB[1000:]
        assert [request.method for request in server.requests] == ["HEAD", "GET", "GET", "GET"]
        assert server.requests[3].headers["Range"] == "bytes=1000-"
        with pytest.raises(NotFound, match="answered 404 to HEAD /a/b/manifests/2"):
            await registry.repository(f"{server.address}/a/b:2").resolve()


@pytest.mark.parametrize("status", [400, 403, 405])
async def test_where_head_is_refused_get_is_asked(status: int) -> None:
    async def no_head(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=status) if request.method == "HEAD" else None

    async with BadRegistry() as server, Registry(options()) as registry:
        found = server.add_image("1", [], [])
        server.faults.append(no_head)
        assert (await registry.repository(f"{server.address}/a:1").resolve()).digest == found["digest"]


async def test_a_head_without_digest_is_not_enough() -> None:
    async def bare(request: web.Request) -> web.StreamResponse | None:
        return web.Response(headers={"Content-Type": OCI_MANIFEST}) if request.method == "HEAD" else None

    async with BadRegistry() as server, Registry(options()) as registry:
        found = server.add_image("1", [], [])
        server.faults.append(bare)
        assert (await registry.repository(f"{server.address}/a:1").resolve()).digest == found["digest"]


async def test_another_digest_than_asked_for() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        found = server.add_image("1", [], [])
        other = server.add_image("2", [BLOB], [])
        server.tags[found["digest"]] = other["digest"]
        with pytest.raises(BadContent, match="it offers"):
            await registry.repository(f"{server.address}/a@{found['digest']}").resolve()


# -- lies -----------------------------------------------------------------------------------------------------


async def test_lies_about_the_digest() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        blob = described(BLOB)
        server.blobs[blob.digest] = ("", BLOB[:-1] + b"\0")
        repository = registry.repository(f"{server.address}/a:1")
        got = bytearray()
        with pytest.raises(BadContent, match="has the digest"):
            async for block in repository.open(blob):
                got += block
        assert len(got) < len(BLOB)  # the last block of a liar is never given out
        with pytest.raises(BadContent, match="has the digest"):
            await repository.read(blob)


@pytest.mark.parametrize("wrong", [-5, 5])
@pytest.mark.parametrize("announced", [True, False])
async def test_lies_about_the_size(wrong: int, announced: bool) -> None:
    async def unannounced(request: web.Request) -> web.StreamResponse | None:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(BLOB)
        return response

    async with BadRegistry() as server, Registry(options()) as registry:
        server.add(BLOB)
        if not announced:
            server.faults.append(unannounced)
        repository = registry.repository(f"{server.address}/a:1")
        blob = described(BLOB, len(BLOB) + wrong)
        with pytest.raises((BadContent, Unavailable)) as caught:
            await read(repository, blob)
        assert str(blob.size) in caught.value.message


async def test_lies_about_the_type() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        found = server.add_image("1", [], [])
        server.blobs[found["digest"]] = (
            "application/vnd.oci.image.index.v1+json",
            server.blobs[found["digest"]][1],
        )
        repository = registry.repository(f"{server.address}/a:1")
        with pytest.raises(BadContent, match="calls itself"):
            await repository.document(await repository.resolve())


async def test_a_manifest_without_end() -> None:
    async def endless(request: web.Request) -> web.StreamResponse | None:
        if request.method == "HEAD":
            return web.Response(status=405)
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 65536)
        except ConnectionError:
            return response

    async with BadRegistry() as server, Registry(options()) as registry:
        server.faults.append(endless)
        with pytest.raises(BadContent, match="more than"):
            await registry.repository(f"{server.address}/a:1").resolve()


# -- breaks ---------------------------------------------------------------------------------------------------


async def test_drops_are_mended_by_range() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        blob = described(BLOB)
        server.add(BLOB)

        async def drop(request: web.Request) -> web.StreamResponse:
            return await server.send(request, BLOB, {}, drop_after=700_000)

        server.faults.append(times(4, "blobs", drop))
        assert await read(registry.repository(f"{server.address}/a:1"), blob) == BLOB
        assert 3 <= len(server.requests) <= 5
        # What had come was not asked for again.
        starts = [request.http_range.start or 0 for request in server.requests]
        assert starts == sorted(set(starts))


async def test_a_registry_without_ranges() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        server.add(BLOB)
        dropped = iter([1_500_000])

        async def whole(request: web.Request) -> web.StreamResponse | None:
            if BadRegistry.asked(request)[0] != "blobs":
                return None
            response = web.StreamResponse()
            response.content_length = len(BLOB)
            await response.prepare(request)
            stop = next(dropped, len(BLOB))
            await response.write(BLOB[:stop])
            if stop < len(BLOB) and request.transport is not None:
                await asyncio.sleep(0.05)
                request.transport.abort()
            return response

        server.faults.append(whole)
        repository = registry.repository(f"{server.address}/a:1")
        assert await read(repository, described(BLOB)) == BLOB
        assert await read(repository, described(BLOB), 2_000_000) == BLOB[2_000_000:]


async def test_another_range_than_asked_for() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:

        async def wrong(request: web.Request) -> web.StreamResponse | None:
            return web.Response(status=206, body=b"x" * 10, headers={"Content-Range": "bytes 0-9/10"})

        server.faults.append(wrong)
        with pytest.raises(BadContent, match="bytes 0-9/10"):
            await read(registry.repository(f"{server.address}/a:1"), described(BLOB), 100)


async def test_a_stall_is_noticed() -> None:
    async with BadRegistry() as server, Registry(options(policy=IMPATIENT)) as registry:
        server.add(BLOB)

        async def hang(request: web.Request) -> web.StreamResponse:
            return await server.send(request, BLOB, {}, hang_after=100_000)

        server.faults.append(times(2, "blobs", hang))
        started = time.monotonic()
        assert await read(registry.repository(f"{server.address}/a:1"), described(BLOB)) == BLOB
        assert time.monotonic() - started < HANGS


async def test_a_trickle_is_a_stall() -> None:
    async with BadRegistry() as server, Registry(options(policy=IMPATIENT)) as registry:

        async def trickle(request: web.Request) -> web.StreamResponse | None:
            response = web.StreamResponse()
            response.content_length = len(BLOB)
            await response.prepare(request)
            try:
                for at in range(10_000):
                    await response.write(BLOB[at : at + 1])
                    await asyncio.sleep(0.02)
            except ConnectionError:
                pass
            return response

        server.faults.append(trickle)
        with pytest.raises(Unavailable, match="stalled"):
            await read(registry.repository(f"{server.address}/a:1"), described(BLOB))


async def test_drops_without_progress_end() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        server.add(BLOB)

        async def drop(request: web.Request) -> web.StreamResponse | None:
            return await server.send(request, BLOB, {}, drop_after=10)

        server.faults.append(drop)
        with pytest.raises(Unavailable) as caught:
            await read(registry.repository(f"{server.address}/a:1"), described(BLOB))
        assert caught.value.hint
        assert len(server.requests) == FAST.attempts


# -- overload -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_storms_pass(status: int) -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        server.add_image("1", [BLOB], [])
        server.faults += [statuses("manifests", iter([status] * 3)), statuses("blobs", iter([status] * 3))]
        repository = registry.repository(f"{server.address}/a:1")
        document = await repository.document(await repository.resolve())
        assert await read(repository, document.layers[0]) == BLOB


async def test_storms_that_do_not_pass() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        server.faults.append(statuses("manifests", repeat(429)))
        with pytest.raises(RateLimited, match="answered 429"):
            await registry.repository(f"{server.address}/a:1").resolve()
        assert len(server.requests) == FAST.attempts
        server.faults = [statuses("manifests", repeat(503))]
        with pytest.raises(Unavailable, match="answered 503"):
            await registry.repository(f"{server.address}/a:1").resolve()


async def test_retry_after_is_obeyed() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        server.add_image("1", [], [])
        server.faults.append(statuses("manifests", iter([429]), **{"Retry-After": "1"}))
        started = time.monotonic()
        await registry.repository(f"{server.address}/a:1").resolve()
        assert time.monotonic() - started >= 1


async def test_what_is_no_overload_is_not_tried_again() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        server.faults.append(statuses("blobs", repeat(403)))
        with pytest.raises(Denied):
            await read(registry.repository(f"{server.address}/a:1"), described(BLOB))
        assert len(server.requests) == 1


# -- mirrors --------------------------------------------------------------------------------------------------


async def test_a_mirror_that_fails_in_the_middle_of_a_blob(tmp_path: Path) -> None:
    async with BadRegistry() as mirror, BadRegistry() as origin:
        for server in (mirror, origin):
            server.add_image("1", [BLOB], [])

        async def drop(request: web.Request) -> web.StreamResponse | None:
            if mirror.asked(request)[0] != "blobs":
                return None
            if request.http_range.start:
                return web.Response(status=500)
            return await mirror.send(request, BLOB, {}, drop_after=2_000_000)

        mirror.faults.append(drop)
        settings = mirrors(tmp_path, "r.example.com", mirror.address, server=f"http://{origin.address}")
        async with Registry(options(settings=settings)) as registry:
            repository = registry.repository("r.example.com/a:1")
            document = await repository.document(await repository.resolve())
            assert await read(repository, document.layers[0]) == BLOB
        assert {request.query["ns"] for request in mirror.requests} == {"r.example.com"}
        (asked,) = origin.requests
        assert 0 < (asked.http_range.start or 0) <= 2_000_000


async def test_a_mirror_without_the_image(tmp_path: Path) -> None:
    async with BadRegistry() as mirror, BadRegistry() as origin:
        found = origin.add_image("1", [BLOB], [])
        settings = mirrors(
            tmp_path, "r.example.com", "127.0.0.1:1", mirror.address, server=f"http://{origin.address}"
        )
        async with Registry(options(settings=settings)) as registry:
            repository = registry.repository("r.example.com/a:1")
            assert (await repository.resolve()).digest == found["digest"]
            with pytest.raises(NotFound, match=r"before that, 127\.0\.0\.1:1: connection refused"):
                await registry.repository("r.example.com/a:2").resolve()


async def test_a_lying_mirror_is_not_asked_again(tmp_path: Path) -> None:
    async with BadRegistry() as mirror, BadRegistry() as origin:
        for server in (mirror, origin):
            server.add_image("1", [BLOB], [])
        settings = mirrors(tmp_path, "r.example.com", mirror.address, server=f"http://{origin.address}")
        async with Registry(options(settings=settings)) as registry:
            repository = registry.repository("r.example.com/a:1")
            top = await repository.resolve()
            data = mirror.blobs[top.digest][1]
            mirror.blobs[top.digest] = (OCI_MANIFEST, data[:-1] + b" ")
            assert (await repository.document(top)).data == data


# -- authentication -------------------------------------------------------------------------------------------


class TokenServer:
    """Guards a BadRegistry with tokens, `posts` or only GET, and remembers what was asked."""

    def __init__(self, server: BadRegistry, *, oauth: bool = True) -> None:
        self.server, self.oauth = server, oauth
        self.asked: list[dict[str, Any]] = []
        self.tokens: set[str] = set()
        server.faults.append(self)

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        if request.path == "/token":
            return await self.token(request)
        if request.headers.get("Authorization", "").removeprefix("Bearer ") in self.tokens:
            return None
        realm = f"http://{self.server.address}/token"
        challenge = f'Bearer realm="{realm}",service="us",scope="repository:a:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def token(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST" and not self.oauth:
            return web.Response(status=405)
        form = dict(await request.post()) if request.method == "POST" else dict(request.query)
        self.asked.append(form | {"authorization": request.headers.get("Authorization", "")})
        if form.get("password") == "wrong" or "wrong" in _basic(request):
            return web.Response(status=401)
        value = f"t{len(self.asked)}"
        self.tokens.add(value)
        return web.json_response({"access_token" if request.method == "POST" else "token": value})


def _basic(request: web.Request) -> str:
    return base64.b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode()


def anna(server: BadRegistry, secret: str = "s", name: str = "anna") -> Options:
    return options(credentials=static(Credentials(name, secret), frozenset((server.address,))))


async def test_anonymous_tokens_one_for_many_requests() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        server.add_image("1", [BLOB, BLOB[:1000], BLOB[:2000]], [])
        guard = TokenServer(server)
        repository = registry.repository(f"{server.address}/a:1")
        document = await repository.document(await repository.resolve())
        await asyncio.gather(*(read(repository, layer) for layer in document.layers))
        assert [asked["scope"] for asked in guard.asked] == ["repository:a:pull"]
        assert guard.asked[0]["service"] == "us"


async def test_oauth_with_a_password_and_with_an_identity_token() -> None:
    async with BadRegistry() as server:
        server.add_image("1", [], [])
        guard = TokenServer(server)
        for name, expected in (
            ("anna", {"grant_type": "password", "username": "anna", "password": "s"}),
            ("", {"grant_type": "refresh_token", "refresh_token": "s"}),
        ):
            async with Registry(anna(server, name=name)) as registry:
                await registry.repository(f"{server.address}/a:1").resolve()
            assert expected.items() <= guard.asked[-1].items()


async def test_a_token_server_that_knows_only_get() -> None:
    async with BadRegistry() as server, Registry(anna(server)) as registry:
        server.add_image("1", [], [])
        guard = TokenServer(server, oauth=False)
        await registry.repository(f"{server.address}/a:1").resolve()
        assert guard.asked[0]["authorization"].startswith("Basic ")


@pytest.mark.parametrize("oauth", [True, False])
async def test_a_wrong_password(oauth: bool) -> None:
    async with BadRegistry() as server, Registry(anna(server, "wrong")) as registry:
        TokenServer(server, oauth=oauth)
        with pytest.raises(Unauthorized, match="answered 401") as caught:
            await registry.repository(f"{server.address}/a:1").resolve()
        assert "password" in caught.value.hint


async def test_an_expired_token_is_renewed() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        server.add_image("1", [], [])
        guard = TokenServer(server)
        repository = registry.repository(f"{server.address}/a:1")
        await repository.resolve()
        guard.tokens.clear()
        await repository.resolve()
        assert len(guard.asked) == 2


async def test_tokens_that_are_never_good_enough() -> None:
    async with BadRegistry() as server, Registry(options()) as registry:
        guard = TokenServer(server)

        async def refuse(request: web.Request) -> web.StreamResponse | None:
            guard.tokens.clear()
            return None

        server.faults.insert(0, refuse)
        with pytest.raises(Unauthorized, match="refuses the tokens"):
            await registry.repository(f"{server.address}/a:1").resolve()


def basic_guard(request: web.Request) -> web.StreamResponse | None:
    if _basic(request) == "anna:s":
        return None
    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})


async def test_basic() -> None:
    async def guard(request: web.Request) -> web.StreamResponse | None:
        return basic_guard(request)

    async with BadRegistry() as server:
        server.add_image("1", [], [])
        server.faults.append(guard)
        name = f"{server.address}/a:1"
        async with Registry(anna(server)) as registry:
            await registry.repository(name).resolve()
        async with Registry(anna(server, "wrong")) as registry:
            with pytest.raises(Unauthorized, match="did not accept"):
                await registry.repository(name).resolve()
        async with Registry(options()) as registry:
            with pytest.raises(Unauthorized, match="wants a user name") as caught:
                await registry.repository(name).resolve()
            assert "docker login" in caught.value.hint


async def test_secrets_stay_where_they_belong(tmp_path: Path) -> None:
    """Not to a mirror, not behind a redirect, not into the trace."""
    seen: list[str] = []
    traced: list[str] = []

    async with BadRegistry() as origin, BadRegistry() as storage:
        found = storage.add(BLOB)
        origin.add(BLOB)

        async def elsewhere(request: web.Request) -> web.StreamResponse | None:
            if "Authorization" not in request.headers:
                return basic_guard(request)
            seen.append(request.headers["X-Team"])
            return web.Response(
                status=307, headers={"Location": f"http://{storage.address}/x/blobs/{found['digest']}?sig=1"}
            )

        origin.faults.append(elsewhere)
        (tmp_path / "r.example.com").mkdir()
        (tmp_path / "r.example.com" / "hosts.toml").write_text(
            f'server = "http://{origin.address}"\n[header]\nX-Team = "blue"\n'
        )
        provider = static(Credentials("anna", "s"), frozenset((origin.address,)))
        chosen = options(settings=Settings(str(tmp_path)), credentials=provider, trace=traced.append)
        async with Registry(chosen) as registry:
            assert await read(registry.repository("r.example.com/a:1"), described(BLOB)) == BLOB
        assert seen == ["blue"]
        (request,) = storage.requests
        assert "Authorization" not in request.headers and "X-Team" not in request.headers
        assert request.query["sig"] == "1"
        assert base64.b64encode(b"anna:s").decode() not in "".join(traced)


async def test_redirects_in_circles() -> None:
    async def round_and_round(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=302, headers={"Location": request.path_qs})

    async with BadRegistry() as server, Registry(options()) as registry:
        server.faults.append(round_and_round)
        with pytest.raises(RegistryError, match="circles"):
            await registry.repository(f"{server.address}/a:1").resolve()


# -- TLS, proxies ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificates(authority: trustme.CA, tmp_path: Path) -> Iterator[Path]:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    client = authority.issue_cert("client@example.com")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.cert"))
    client.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    yield tmp_path


def server_context(authority: trustme.CA, *, clients: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_tls(authority: trustme.CA, certificates: Path) -> None:
    async with BadRegistry(tls=server_context(authority)) as server:
        server.add_image("1", [], [])

        async def resolve(tls: TLS) -> None:
            async with Registry(options(settings=Settings(tls=tls))) as registry:
                await registry.repository(f"{server.address}/a:1").resolve()

        await resolve(TLS((str(certificates / "ca.crt"),)))
        await resolve(TLS(skip_verify=True))
        with pytest.raises(Untrusted, match="not trusted") as caught:
            await resolve(TLS())
        assert "--tlscacert" in caught.value.hint
        with pytest.raises(BadConfiguration, match=r"nothing\.crt: no such file"):
            await resolve(TLS((str(certificates / "nothing.crt"),)))
        with pytest.raises(BadConfiguration, match=r"client\.key"):
            await resolve(TLS((str(certificates / "client.key"),)))


async def test_client_certificates(authority: trustme.CA, certificates: Path) -> None:
    async with BadRegistry(tls=server_context(authority, clients=True)) as server:
        server.add_image("1", [], [])
        ca = (str(certificates / "ca.crt"),)
        pair = (str(certificates / "client.cert"), str(certificates / "client.key"))
        async with Registry(options(settings=Settings(tls=TLS(ca, (pair,))))) as registry:
            await registry.repository(f"{server.address}/a:1").resolve()
        async with Registry(options(settings=Settings(tls=TLS(ca)))) as registry:
            with pytest.raises((Untrusted, Unavailable)):
                await registry.repository(f"{server.address}/a:1").resolve()


async def test_plain_http_is_asked_for_elsewhere_than_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshore.registry.hosts.is_loopback", lambda host: False)
    async with BadRegistry() as server:
        server.add_image("1", [], [])
        async with Registry(options()) as registry:
            with pytest.raises(Untrusted) as caught:
                await registry.repository(f"{server.address}/a:1").resolve()
            assert "--plain-http" in caught.value.hint
        async with Registry(options(settings=Settings(plain_http=True))) as registry:
            await registry.repository(f"{server.address}/a:1").resolve()


async def test_a_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with BadRegistry() as proxy:  # an absolute request line is what makes it one
        found = proxy.add_image("1", [], [])
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        async with Registry(options(settings=Settings(plain_http=True))) as registry:
            top = await registry.repository("registry.example.com/a:1").resolve()
        assert top.digest == found["digest"]
        assert proxy.requests[0].raw_path.startswith("http://registry.example.com/")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        async with Registry(options(settings=Settings(plain_http=True))) as registry:
            with pytest.raises(Unavailable, match="proxy"):
                await registry.repository("registry.example.com/a:1").resolve()


async def test_nobody_there() -> None:
    async with Registry(options()) as registry:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: connection refused"):
            await registry.repository("127.0.0.1:1/a:1").resolve()
        with pytest.raises(Unavailable, match="no such host"):
            await registry.repository("nothing.invalid/a:1").resolve()


# -- pushing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [0, 700_000, 1 << 20])
async def test_push(chunk_size: int) -> None:
    async with BadRegistry() as server, Registry(options(chunk_size=chunk_size)) as registry:
        pusher = registry.repository(f"{server.address}/a:1").pusher()

        async def send(data: bytes, **fields: Any) -> Pushed:
            async def blocks(offset: int) -> Any:
                for at in range(offset, len(data), 1 << 18):
                    yield data[at : at + (1 << 18)]

            return await pusher.blob(described(data), blocks, **fields)

        assert await send(BLOB) is Pushed.UPLOADED
        assert await send(BLOB) is Pushed.EXISTS
        assert server.blobs[digest_of(BLOB)][1] == BLOB
        server.faults.append(statuses("blobs", iter([404])))
        assert await send(BLOB, mount_from=["a", "b"]) is Pushed.MOUNTED
        assert server.requests[-1].query["from"] == "b"
        manifest = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST}).encode()
        found = Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest))
        assert await pusher.manifest(found, manifest, "1") is Pushed.UPLOADED
        assert server.tags["1"] == found.digest


@pytest.mark.parametrize("chunk_size", [0, 1 << 20])
async def test_a_broken_push_goes_on(chunk_size: int) -> None:
    async with BadRegistry() as server, Registry(options(chunk_size=chunk_size)) as registry:
        pusher = registry.repository(f"{server.address}/a:1").pusher()
        opened: list[int] = []

        async def blocks(offset: int) -> Any:
            opened.append(offset)
            for at in range(offset, len(BLOB), 1 << 18):
                yield BLOB[at : at + (1 << 18)]

        async def drop(request: web.Request) -> web.StreamResponse | None:
            if request.method not in ("PATCH", "PUT") or len(opened) % 2:
                return None
            await request.content.read(1000)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        server.faults += [drop, statuses("nothing", iter(()))]
        assert await pusher.blob(described(BLOB), blocks) is Pushed.UPLOADED
        assert server.blobs[digest_of(BLOB)][1] == BLOB


async def test_a_host_that_takes_no_pushes(tmp_path: Path) -> None:
    settings = mirrors(tmp_path, "r.example.com", "127.0.0.1:1", server="http://127.0.0.1:2")
    text = 'server = "http://127.0.0.1:2"\ncapabilities = ["pull"]\n'
    (tmp_path / "r.example.com" / "hosts.toml").write_text(text)
    async with Registry(options(settings=settings)) as registry:
        with pytest.raises(BadConfiguration, match="takes pushes"):
            registry.repository("r.example.com/a:1").pusher()
