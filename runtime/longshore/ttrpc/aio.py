"""ttrpc for asyncio programs: a client with many calls in flight, and a server for unary methods.

A `Client` is one connection. It never reconnects: for a shim, a lost
connection *is* the news (the shim died), so `Client.closed` is a future that
completes with the loss. The protocol itself lives in `frames`, `client.Calls`
and `server.Connection`; this file is sockets, futures and tasks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from longshore.api.errors import DeadlineExceeded, Error, InvalidArgument, Unimplemented, undecodable
from longshore.ttrpc.client import Calls
from longshore.ttrpc.server import Call, Connection

Answer = TypeVar("Answer", bound=Message)
Metadata = Mapping[str, Sequence[str]]
NO_METADATA: Metadata = MappingProxyType({})

_BACKLOG = 1024


class Closed(Error):
    """The connection ended before the answer came: the peer is gone."""

    def __init__(self, message: str = "ttrpc: closed") -> None:
        super().__init__(message)


def socket_path(address: str) -> str:
    """The path to give to connect(2) for an address as shims print it.

    ``unix:///path`` is a file, a bare string an abstract socket. Raises
    Unimplemented for the schemes of virtual machines (vsock, hvsock).
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        return "\0" + address
    if scheme != "unix":
        raise Unimplemented(f"shim address {address!r}: scheme {scheme!r} is not supported: not implemented")
    return rest


class Client(asyncio.Protocol):
    """One connection to a ttrpc server. Make it with `connect`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._calls = Calls()
        self._pending: dict[int, asyncio.Future[bytes]] = {}

    @classmethod
    async def connect(cls, address: str, *, timeout: float) -> Client:
        """Connect to `address` within `timeout` seconds. Raises OSError or DeadlineExceeded."""
        path = socket_path(address)
        try:
            async with asyncio.timeout(timeout):
                _, client = await asyncio.get_running_loop().create_unix_connection(cls, path)
        except TimeoutError:
            raise DeadlineExceeded(f"dial {address}: timeout: deadline exceeded") from None
        return client

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        timeout: float | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> Answer:
        """Call a unary method and decode its answer.

        `timeout` (seconds) bounds the wait and is told to the server. Raises
        what the server answered (`longshore.api.errors`), DeadlineExceeded, or
        `Closed` when the connection ends first. A cancelled call is forgotten
        here: the server may still carry it out.
        """
        if self._transport is None or self._transport.is_closing():
            raise Closed
        stream, data = self._calls.send(
            service, method, request.SerializeToString(), timeout=timeout, metadata=metadata
        )
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._pending[stream] = future
        self._transport.write(data)
        try:
            async with asyncio.timeout(timeout):
                payload = await future
        except TimeoutError:
            raise DeadlineExceeded(f"{method}: context deadline exceeded") from None
        finally:
            self._pending.pop(stream, None)
        return answer.FromString(payload)

    def close(self) -> None:
        """Close the connection: calls in flight fail with `Closed`, and `closed` completes soon."""
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for stream, payload, error in self._calls.receive(data):
            future = self._pending.pop(stream, None)
            if future is None or future.done():
                continue  # the late answer to a call that timed out
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(payload)

    def connection_lost(self, reason: Exception | None) -> None:
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(Closed())
        if not self.closed.done():
            self.closed.set_result(None)


class Method(NamedTuple):
    """A unary method: the class of its request and the coroutine that answers.

    The coroutine gets the request and the metadata (lower-case keys, lists of values).
    """

    request: type[Message]
    handler: Callable[[Any, Mapping[str, Sequence[str]]], Awaitable[Message]]


Services = Mapping[str, Mapping[str, Method]]
"""Full service name -> method name -> method."""


class Server:
    """Unary ttrpc methods on a Unix socket, for peers of our own user (and root) only.

    What a call started is finished even when its client hangs up; `stop` cancels.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._server: asyncio.Server | None = None
        self._peers: set[_Peer] = set()

    async def start(self, path: str) -> None:
        """Bind `path` (mode 0660; a stale socket there is replaced) and serve. Raises OSError."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o117)
        try:
            listener.bind(path)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(before)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Peer(self._services, self._peers), sock=listener, backlog=_BACKLOG
        )

    async def stop(self) -> None:
        """Stop listening, hang up on all peers, cancel what still runs."""
        if self._server is None:
            return
        self._server.close()
        for peer in list(self._peers):
            await peer.drop()
        await self._server.wait_closed()
        self._server = None


class _Peer(asyncio.Protocol):
    def __init__(self, services: Services, peers: set[_Peer]) -> None:
        self._services = services
        self._peers = peers
        self._connection = Connection()
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if _same_user(transport.get_extra_info("socket")):
            self._peers.add(self)
        else:
            self._transport.abort()

    def connection_lost(self, reason: Exception | None) -> None:
        self._transport = None
        if not self._tasks:
            self._peers.discard(self)

    async def drop(self) -> None:
        """Hang up and cancel the calls."""
        if self._transport is not None:
            self._transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._peers.discard(self)

    def data_received(self, data: bytes) -> None:
        for call in self._connection.receive(data):
            task = asyncio.get_running_loop().create_task(self._serve(call))
            self._tasks.add(task)
            task.add_done_callback(self._finished)
        self._flush()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._transport is None and not self._tasks:
            self._peers.discard(self)

    async def _serve(self, call: Call) -> None:
        try:
            self._connection.respond(call.stream, await self._dispatch(call))
        except Exception as error:  # whatever broke, the peer gets an answer
            self._connection.fail(call.stream, error)
        self._flush()

    async def _dispatch(self, call: Call) -> Message:
        methods = self._services.get(call.service)
        if methods is None:
            raise Unimplemented(f"service {call.service}")
        method = methods.get(call.method)
        if method is None:
            raise Unimplemented(f"method {call.method}")
        try:
            request = method.request.FromString(call.payload)
        except DecodeError as error:
            raise InvalidArgument(f"unmarshal request: {undecodable(error)}: invalid argument") from None
        try:
            async with asyncio.timeout(call.timeout_nano / 1e9 if call.timeout_nano > 0 else None):
                return await method.handler(request, call.metadata)
        except TimeoutError:
            raise DeadlineExceeded("context deadline exceeded") from None

    def _flush(self) -> None:
        data = self._connection.take()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _same_user(connection: socket.socket) -> bool:
    """Whether the peer runs as us or as root: ttrpc has no other authentication."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid())
