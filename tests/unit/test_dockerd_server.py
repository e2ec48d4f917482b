"""The HTTP layer by itself, byte by byte: on unix, TCP and TLS sockets, with routes made for it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from longshore.api import errors
from longshore.dockerd import server as http
from longshore.dockerd.config import Config
from longshore.dockerd.engine import Engine
from longshore.dockerd.errors import Conflict, NotModified
from longshore.dockerd.http import Answer, Call, Route
from longshore.dockerd.listeners import context, listening
from longshore.dockerd.records import CreateBody
from longshore.dockerd.server import Server
from support.folders import short_folder
from support.rawhttp import Raw, request

T = TypeVar("T")
TCP_KINDS = ("tcp", "tls")
RAW = "application/vnd.docker.raw-stream"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
WITHIN = 60.0  # seconds, for what comes at once


class Seen:
    """What the handlers tell the tests."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.gone = threading.Event()
        self.finished = threading.Event()
        self.started = threading.Event()
        self.go_on = asyncio.Event()


async def echo(engine: Engine, call: Call) -> None:
    """All that comes until the client's end, then some more."""
    connection = await call.hijack(RAW)
    while data := await connection.read():
        await connection.write(data)
    await connection.write(b"end")


async def first_ends(engine: Engine, call: Call) -> None:
    """Ours ends first; what the client sends then still arrives."""
    connection = await call.hijack(RAW)
    await connection.write(b"hello")
    await connection.close_write()
    got = b""
    while data := await connection.read():
        got += data
    _seen(engine).__dict__["got"] = got
    _seen(engine).finished.set()


async def until_gone(engine: Engine, call: Call) -> None:
    connection = await call.hijack(RAW)
    _seen(engine).started.set()
    await connection.gone()
    _seen(engine).gone.set()


async def refused(engine: Engine, call: Call) -> None:
    raise errors.NotFound("No such container: x")


async def flood(engine: Engine, call: Call) -> None:
    connection = await call.hijack(RAW)
    await connection.write(b"x" * (8 << 20))


async def same(engine: Engine, call: Call) -> Answer:
    return Answer(200, {"path": dict(call.path), "query": dict(call.query), "version": list(call.version)})


async def created(engine: Engine, call: Call) -> Answer:
    body = await call.json(CreateBody)
    return Answer(201, {"image": body.image, "tty": body.tty, "env": body.env})


async def counted(engine: Engine, call: Call) -> Answer:
    return Answer(200, sum([len(block) async for block in call.body()]))


async def unread(engine: Engine, call: Call) -> Answer:
    raise Conflict("not now")


async def lines(engine: Engine, call: Call) -> None:
    answer = await call.stream()
    await answer.line({"status": "one"})
    raise errors.NotFound("it broke")


async def endless(engine: Engine, call: Call) -> None:
    answer = await call.stream()
    await answer.line({"status": "one"})
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        _seen(engine).cancelled.set()
        raise


async def changes(engine: Engine, call: Call) -> Answer:
    seen = _seen(engine)
    seen.started.set()
    await seen.go_on.wait()
    seen.finished.set()
    return Answer(204)


async def unchanged(engine: Engine, call: Call) -> Answer:
    raise NotModified("is so already")


async def broken(engine: Engine, call: Call) -> Answer:
    raise ZeroDivisionError("a bug")


def _seen(engine: Engine) -> Seen:
    return cast(Seen, engine)


ROUTES = (
    Route("POST", "/echo", echo, hijacks=True),
    Route("POST", "/first", first_ends, hijacks=True),
    Route("POST", "/until-gone", until_gone, hijacks=True),
    Route("POST", "/refused", refused, hijacks=True),
    Route("POST", "/flood", flood, hijacks=True),
    Route("GET", "/images/{name}/json", same),
    Route("GET", "/images/json", same),
    Route("GET", "/new", same, since=(1, 40)),
    Route("POST", "/create", created),
    Route("POST", "/count", counted),
    Route("POST", "/unread", unread),
    Route("GET", "/lines", lines),
    Route("GET", "/endless", endless),
    Route("POST", "/changes", changes),
    Route("POST", "/unchanged", unchanged),
    Route("GET", "/broken", broken),
)


class Served:
    def __init__(
        self, kind: str, address: Any, trust: ssl.SSLContext | None, seen: Seen, server: Server
    ) -> None:
        self.kind, self._address, self._trust = kind, address, trust
        self.seen, self.server = seen, server

    def connect(self) -> Raw:
        sock = socket.socket(socket.AF_UNIX if self.kind == "unix" else socket.AF_INET)
        sock.settimeout(WITHIN)
        sock.connect(self._address)
        return Raw(sock, self._trust)


@asynccontextmanager
async def serving(kind: str, **options: Any) -> AsyncIterator[Served]:
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        config, trust = Config(hosts=[f"unix://{folder}/s"], group=""), None
        if kind != "unix":
            config.hosts = ["tcp://127.0.0.1:0"]
        if kind == "tls":
            trust = secure(config, folder)
        seen = Seen()
        server = Server(cast(Engine, seen), ROUTES, **options)
        (listener,) = stack.enter_context(listening(config, {}))
        accepting = await asyncio.get_running_loop().create_server(
            lambda: server.protocol(context(config)), sock=listener.socket
        )
        try:
            yield Served(kind, listener.socket.getsockname(), trust, seen, server)
        finally:
            accepting.close()
            await server.close()


def secure(config: Config, folder: Path) -> ssl.SSLContext:
    """Have `config` use TLS with client certificates; what a client needs, which has one."""
    authority = trustme.CA()
    ours, theirs = authority.issue_cert("localhost"), authority.issue_cert("client@example.org")
    config.tlscert, config.tlskey, config.tlscacert = (str(folder / name) for name in ("cert", "key", "ca"))
    ours.cert_chain_pems[0].write_to_path(config.tlscert)
    ours.private_key_pem.write_to_path(config.tlskey)
    authority.cert_pem.write_to_path(config.tlscacert)
    config.tlsverify = True
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    theirs.configure_cert(trust)
    return trust


@pytest.fixture(params=("unix", "tcp", "tls"))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a busy machine does to a client of ours isn't what the server's limits are for."""
    for name in ("HEAD_SECONDS", "HANDSHAKE_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(http, name, WITHIN)


async def in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


async def run(kind: str, work: Callable[[Served], T], **options: Any) -> T:
    async with serving(kind, **options) as served:
        return await asyncio.to_thread(work, served)


# -- taken connections --------------------------------------------------------------------------------------


async def test_hijack_half_close_of_the_client(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/echo", **UPGRADE))
            status, headers = raw.head()
            assert status == 101
            assert (headers["upgrade"], headers["content-type"]) == ("tcp", RAW)
            raw.send(b"abc")
            assert raw.exactly(3) == b"abc"
            raw.half_close()
            assert raw.everything() == b"end"

    await run(kind, session)


async def test_hijack_what_came_with_the_request_is_not_lost(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/v1.40/echo", {"Detach": False}, **UPGRADE) + b"GET / HTTP/1.1\r\n\r\n")
            assert raw.head()[0] == 101
            raw.half_close()
            assert raw.everything() == b"GET / HTTP/1.1\r\n\r\nend"

    await run(kind, session)


async def test_hijack_without_upgrade(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/echo"))
            status, headers = raw.head()
            assert (status, headers["content-type"]) == (200, RAW)
            raw.send(b"abc")
            raw.half_close()
            assert raw.everything() == b"abcend"

    await run(kind, session)


async def test_hijack_half_close_of_ours(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/first", **UPGRADE))
            raw.head()
            assert raw.everything() == b"hello"
            raw.send(b"still ")
            raw.send(b"here")
            raw.half_close()
            assert served.seen.finished.wait(WITHIN)
            assert served.seen.__dict__["got"] == b"still here"

    await run(kind, session)


async def test_hijack_gone(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/until-gone", **UPGRADE))
            raw.head()
            assert served.seen.started.wait(WITHIN)
            if kind != "unix":  # a reset; a FIN alone may be a half-close
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert served.seen.gone.wait(WITHIN)

    await run(kind, session)


async def test_hijack_refused_is_a_plain_answer(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            status, _, body = raw.ask("POST", "/refused", **UPGRADE)
            assert (status, json.loads(body)) == (404, {"message": "No such container: x"})
            assert raw.ask("GET", "/images/json")[0] == 200

    await run(kind, session)


async def test_hijack_a_slow_reader_gets_all(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/flood", **UPGRADE))
            raw.head()
            assert len(raw.everything()) == 8 << 20

    await run(kind, session)


# -- requests and answers -----------------------------------------------------------------------------------


async def test_names_with_slashes_versions_and_headers() -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            path = "/v1.30/images/localhost:5000%2Fa/b:1/json?all=1&x=%20y&all=2"
            status, headers, body = raw.ask("GET", path)
            assert status == 200
            assert json.loads(body) == {
                "path": {"name": "localhost:5000/a/b:1"},
                "query": {"all": "1", "x": " y"},
                "version": [1, 30],
            }
            assert headers["api-version"] == "1.48"
            assert headers["ostype"] == "linux"
            assert headers["server"].startswith("Docker/")
            status, headers, body = raw.ask("GET", "http://docker/images/json")
            assert json.loads(body)["version"] == [1, 48]

    await run("unix", session)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    (
        ("/v1.23/images/json", 400, "client version 1.23 is too old. Minimum supported API version is 1.24"),
        ("/v1.49/images/json", 400, "client version 1.49 is too new. Maximum supported API version is 1.48"),
        ("/v1.39/new", 404, "page not found"),
        ("/nothing", 404, "page not found"),
        ("/create", 404, "page not found"),
        ("/broken", 500, "a bug"),
    ),
)
async def test_refusals(path: str, status: int, words: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            got, headers, body = raw.ask("GET", path)
            assert got == status
            assert words in json.loads(body)["message"]
            assert headers["content-type"] == "application/json"

    await run("unix", session)


async def test_not_modified_and_head_have_no_body() -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/unchanged") + request("HEAD", "/images/json") + request("GET", "/new"))
            assert raw.head()[0] == 304
            status, headers = raw.head()
            assert (status, int(headers["content-length"]) > 0) == (200, True)
            assert raw.answer()[0] == 200

    await run("unix", session)


@pytest.mark.parametrize(
    ("body", "status", "part"),
    (
        ({"Image": "x", "Tty": None, "Env": None, "Unknown": 1}, 201, '"tty":false'),
        ({"image": "x", "TTY": True}, 201, '"tty":true'),
        ({"Image": "x", "HostConfig": {"RestartPolicy": None, "PortBindings": {"1/tcp": None}}}, 201, "x"),
        ({"Image": "x", "ExposedPorts": {"1/tcp": None}}, 201, "x"),
        ({"Image": 1}, 400, "Image"),
        ([], 400, "invalid JSON"),
        (b"{}", 400, "must be 'application/json'"),
    ),
)
async def test_bodies(body: Any, status: int, part: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            got, _, answer = raw.ask("POST", "/create", body)
            assert got == status
            assert part in answer.decode()

    await run("unix", session)


async def test_a_chunked_body_after_100_continue(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/count", Transfer_Encoding="chunked", Expect="100-continue"))
            assert raw.head()[0] == 100
            for _ in range(3):
                raw.send(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
            raw.send(b"0\r\n\r\n")
            assert raw.answer()[2] == b"3145728\n"

    await run(kind, session)


async def test_an_early_answer_reaches_who_still_sends(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DRAIN_SECONDS", 0.05)

    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/unread", Content_Length=str(1 << 20)))
            for _ in range(4):
                raw.send(b"x" * (1 << 16))
            status, _, body = raw.answer()
            assert (status, json.loads(body)) == (409, {"message": "not now"})

    await run(kind, session)


async def test_a_short_unread_body_keeps_the_connection() -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            assert raw.ask("POST", "/unread", {"a": 1})[0] == 409
            assert raw.ask("GET", "/images/json")[0] == 200

    await run("unix", session)


async def test_an_error_in_a_stream_is_its_last_line() -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            status, _, body = raw.ask("GET", "/lines")
            one, two = body.decode().split("\r\n")[:-1]
            assert status == 200
            assert json.loads(one) == {"status": "one"}
            assert json.loads(two) == {"error": "it broke", "errorDetail": {"message": "it broke"}}
            assert raw.ask("GET", "/images/json")[0] == 200

    await run("unix", session)


async def test_a_stream_ends_when_its_client_leaves(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("GET", "/endless"))
            raw.head()
            raw.chunk()
        assert served.seen.cancelled.wait(WITHIN)

    await run(kind, session)


async def test_a_change_goes_on_when_its_client_leaves(kind: str) -> None:
    async with serving(kind) as served:

        def leave() -> None:
            with served.connect() as raw:
                raw.send(request("POST", "/changes"))
                assert served.seen.started.wait(WITHIN)

        await in_thread(leave)
        served.seen.go_on.set()
        assert await in_thread(lambda: served.seen.finished.wait(WITHIN))


# -- bad clients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    (
        (b"nonsense\r\n\r\n", 400),
        (b"GET /images/json HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /create HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"GET /images/json HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (2 << 20), 431),
        (b"POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ),
)
async def test_malformed(sent: bytes, status: int) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(sent)
            assert raw.head()[0] == status

    await run("unix", session)


async def test_slow_headers_time_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.1)

    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(b"GET /images/json HTT")
            assert raw.answer()[0] == 408
            assert raw.everything() == b""

    await run(kind, session)


async def test_a_handshake_that_never_comes_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HANDSHAKE_SECONDS", 0.1)

    def session(served: Served) -> None:
        with socket.create_connection(served.server.__dict__["place"], WITHIN) as silent:
            assert silent.recv(10) == b""

    async with serving("tls") as served:
        served.server.__dict__["place"] = served._address
        await in_thread(lambda: session(served))


async def test_too_many_connections() -> None:
    def session(served: Served) -> None:
        with served.connect() as one, served.connect() as two, served.connect() as three:
            assert one.ask("GET", "/images/json")[0] == two.ask("GET", "/images/json")[0] == 200
            status, _, body = three.ask("GET", "/images/json")
            assert (status, json.loads(body)) == (503, {"message": "too many connections"})

    await run("unix", session, max_connections=2)


async def test_a_body_cut_short_is_no_body(kind: str) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            raw.send(request("POST", "/create", Content_Length="100", Content_Type="application/json") + b"{")
            raw.half_close()
            assert raw.answer()[0] == 400

    await run(kind, session)


PIECES = (
    b"GET /images/json HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
    b"POST /create HTTP/1.1\r\nHost: x\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n",
    b"5\r\n12345\r\n",
    b"0\r\n\r\n",
    b"GET /v1.40/images/%ff%00/json?a=%zz&filters={ HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD /lines HTTP/1.1\r\nHost: x\r\n\r\n",
)


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(PIECES)), max_size=8))
def test_nonsense_ends_in_an_answer_or_a_close(pieces: list[bytes]) -> None:
    def session(served: Served) -> None:
        with served.connect() as raw:
            try:
                raw.send(b"".join(pieces))
                raw.half_close()
                raw.everything()
            except ConnectionError:
                pass
        with served.connect() as raw:
            assert raw.ask("GET", "/images/json")[0] == 200

    asyncio.run(run("unix", session))
