"""The HTTP server: connections, versions, errors, and what leaves HTTP.

h11 parses, without I/O: it stops after each request, so that what a client
sends behind one that hijacks is still ours to hand over (aiohttp's parser
would read it as the next request). Sockets and TLS are `stream`'s.

A handler runs as a task of its own. A client that goes away ends it only
while it is streaming: what changes something is never left half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import h11
import structlog

from longshore.api import errors
from longshore.dockerd import routing
from longshore.dockerd.errors import HTTPStatus
from longshore.dockerd.http import Answer, Route
from longshore.dockerd.request import MAX_HEAD, Exchange, Request
from longshore.dockerd.stream import TLS, Plain, Stream
from longshore.dockerd.version import VERSION

if TYPE_CHECKING:
    from longshore.dockerd.engine import Engine

log = structlog.get_logger("dockerd.http")

HEAD_SECONDS: Final = 30.0  # from a request's first byte to the end of its headers
HANDSHAKE_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 2.0  # for a client to read our answer to a request that it is still sending
LINGER_BYTES: Final = 64 << 20
DRAIN_SECONDS: Final = 0.5  # for the rest of a body, before the next request
DRAIN_BYTES: Final = 256 * 1024
MAX_CONNECTIONS: Final = 4096
GRACE_SECONDS: Final = 5.0  # for running requests at the end

_COMMON: Final = {
    "Api-Version": routing.text(routing.NEWEST),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Docker/{VERSION} (linux)",
}


class Server:
    """Serves `routes` on every socket that `connected` is called for."""

    def __init__(
        self, engine: Engine, routes: Iterable[Route], max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.engine = engine
        self.table = routing.Table(routes)
        self._max = max_connections
        self._tasks: set[asyncio.Task[None]] = set()

    def protocol(self, context: ssl.SSLContext | None = None) -> asyncio.Protocol:
        """A protocol for loop.create_server; one per connection."""
        return _Accepted(self, context)

    def connected(self, plain: Plain, context: ssl.SSLContext | None) -> None:
        full = len(self._tasks) >= self._max
        task = asyncio.get_running_loop().create_task(self._serve(plain, context, full))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, plain: Plain, context: ssl.SSLContext | None, full: bool) -> None:
        try:
            stream: Stream = plain
            if context is not None:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    stream = await TLS.accept(plain, context)
            await Connection(self, stream, full).run()
        except ssl.SSLError as error:
            log.info("TLS handshake error", peer=plain.peer, error=str(error))
            await _linger(plain)
        except (ConnectionError, TimeoutError) as error:
            log.debug("connection lost", peer=plain.peer, error=str(error))
        except Exception:
            log.exception("connection failed", peer=plain.peer)
        finally:
            await plain.close()

    async def close(self) -> None:
        """End every connection; a request that changes something has a moment to finish."""
        busy = {task for task in self._tasks if task.get_name() == _BUSY}
        _cancel(self._tasks - busy)
        if busy:
            await asyncio.wait(busy, timeout=GRACE_SECONDS)
        left = set(self._tasks)
        _cancel(left)
        await asyncio.gather(*left, return_exceptions=True)


# What a connection is doing: the name of its task.
_IDLE: Final = "idle"
_BUSY: Final = "busy"
_STREAMING: Final = "streaming"


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


class _Accepted(Plain):
    def __init__(self, server: Server, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._server, self._context = server, context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connected(self, self._context)


class Connection:
    """Requests one after the other, until one takes the connection or the client leaves."""

    def __init__(self, server: Server, stream: Stream, full: bool = False) -> None:
        self._server, self._stream, self._full = server, stream, full
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def run(self) -> None:
        while await self._request():
            self._http.start_next_cycle()
        await self._stream.close()

    async def _request(self) -> bool:
        """Serve one; whether another may follow."""
        exchange = Exchange(self._stream, self._http, _COMMON)
        try:
            request = await self._head(exchange)
            if request is None:
                return False
            if await self._serve(exchange, request):
                return False
        except h11.RemoteProtocolError as error:
            await self._refuse(exchange, error.error_status_hint, f"malformed request: {error}")
        except TimeoutError:
            await self._refuse(exchange, 408, "the request's headers did not arrive")
        await self._drain(exchange)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            return True
        await self._linger()
        return False

    async def _head(self, exchange: Exchange) -> h11.Request | None:
        if not self._http.trailing_data[0]:
            _state(_IDLE)
            self._http.receive_data(await self._stream.read())
        _state(_BUSY)
        async with asyncio.timeout(HEAD_SECONDS):
            event = await exchange.event()
            if not isinstance(event, h11.Request):
                return None
            if not exchange.has_body(event):
                await exchange.event()
        return event

    async def _refuse(self, exchange: Exchange, status: int, message: str) -> None:
        if exchange.begun or self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        await exchange.answer(Answer(status, {"message": message}, {"Connection": "close"}))

    async def _serve(self, exchange: Exchange, request: h11.Request) -> bool:
        """Answer; whether the connection was taken."""
        started = time.monotonic()
        exchange.method_is(request.method)
        target = request.target.decode("latin-1")
        try:
            return await self._dispatch(exchange, request, target)
        finally:
            log.debug(
                "request",
                method=request.method.decode(),
                target=target.partition("?")[0],
                status=exchange.status,
                seconds=round(time.monotonic() - started, 4),
            )

    async def _dispatch(self, exchange: Exchange, request: h11.Request, target: str) -> bool:
        path, _, query = _origin_form(target).partition("?")
        try:
            if self._full:
                raise errors.Unavailable("too many connections")
            version, rest = routing.split_version(path)
            match = self._server.table.find(request.method.decode("latin-1"), rest, version)
            routing.check_version(version)
        except errors.Error as error:
            await exchange.answer(_elsewhere(path, query, error) or _failed(error))
            return False
        watch = _Watch(exchange)
        call = Request(exchange, request, (query, match.path, version), watch.begin, match.route.hijacks)
        if match.route.hijacks:
            _state(_STREAMING)
        handler = asyncio.ensure_future(match.route.handler(self._server.engine, call))
        watch.handler = handler
        try:
            answer = await handler
            if call.taken is not None:
                await call.taken.close()
            elif exchange.begun:
                await exchange.end()
            else:
                await exchange.answer(answer if answer is not None else Answer())
        except asyncio.CancelledError:
            if not watch.lost:
                handler.cancel()
                raise
            raise ConnectionResetError("the client left") from None
        except h11.RemoteProtocolError:
            raise
        except Exception as error:
            await self._failed(exchange, call, error)
        finally:
            await watch.end()
        return call.taken is not None

    async def _failed(self, exchange: Exchange, call: Request, error: Exception) -> None:
        if isinstance(error, ConnectionError) and exchange.begun:
            raise error
        if not isinstance(error, errors.Error):
            log.error("request failed", path=dict(call.path), exc_info=error)
        if call.taken is not None:
            log.info("a hijacked connection failed", error=str(error))
            await call.taken.close()
        elif not exchange.begun:
            await exchange.answer(_failed(error))
        elif call.content_type.startswith("application/json"):
            message = _message(error)
            line = {"errorDetail": {"message": message}, "error": message}
            await exchange.piece(_encode(line) + b"\r\n")
            await exchange.end()
        else:
            # Without the last chunk: the client must not take it for all there is.
            raise ConnectionResetError(_message(error))

    async def _drain(self, exchange: Exchange) -> None:
        """Read the rest of a body that the handler had no use for, if it is short: the connection stays."""
        if self._http.our_state is not h11.DONE:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                left = DRAIN_BYTES
                async for block in exchange.body():
                    left -= len(block)
                    if left < 0:
                        return

    async def _linger(self) -> None:
        """Let the client read our answer: data of its that we never read would make the kernel reset it."""
        if self._http.their_state not in (h11.SEND_BODY, h11.ERROR):
            return
        await _linger(self._stream)


async def _linger(stream: Stream) -> None:
    with contextlib.suppress(TimeoutError, ConnectionError):
        await stream.close_write()
        async with asyncio.timeout(LINGER_SECONDS):
            left = LINGER_BYTES
            while left > 0 and (data := await stream.read()):
                left -= len(data)


class _Watch:
    """While an answer is streamed: the handler ends when the client leaves, even if there is nothing to write."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._connection = asyncio.current_task()
        self.handler: asyncio.Future[Answer | None] | None = None
        self.lost = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._connection is not None:
            self._connection.set_name(_STREAMING)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        http = self._exchange.http
        # Who still reads the body notices the end by itself.
        await self._exchange.read.wait()
        try:
            while len(http.trailing_data[0]) < MAX_HEAD:
                data = await self._exchange.stream.read()
                http.receive_data(data)
                if not data:
                    break
            else:
                return
        except ConnectionError:
            pass
        self.lost = True
        if self.handler is not None:
            self.handler.cancel()

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _state(name: str) -> None:
    task = asyncio.current_task()
    if task is not None:
        task.set_name(name)


def _origin_form(target: str) -> str:
    """Clients behind a proxy setting send the whole URL."""
    if target.startswith("/"):
        return target
    _, found, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if found else target


def _encode(document: object) -> bytes:
    import msgspec

    return msgspec.json.encode(document)


def _message(error: BaseException) -> str:
    return str(error.args[0]) if isinstance(error, errors.Error) and error.args else str(error)


def _elsewhere(path: str, query: str, error: errors.Error) -> Answer | None:
    """Where the client is sent that writes no clean path."""
    if not isinstance(error, errors.NotFound) or (clean := routing.cleaned(path)) == path:
        return None
    return Answer(301, headers={"Location": f"{clean}?{query}" if query else clean})


def _failed(error: BaseException) -> Answer:
    status = HTTPStatus.of(error)
    return Answer(status, None if status == 304 else {"message": _message(error)})
