"""The channels of `longshore.client.wire`, blocking and on asyncio, and grpc's own, against grpc's server: the same.

A case is a coroutine that takes a `Connection`; without an event loop it is
driven by `blocking.run`. The server runs in a thread, with an event loop of its own.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.api import errors
from longshore.client import connection as connections
from longshore.client.blocking import Portal
from longshore.client.connection import Connection, translated
from longshore.client.wire import blocking, loop

MIB = 1 << 20
Case = Callable[[Connection], Coroutine[Any, Any, None]]


class Handlers(grpc.GenericRpcHandler):
    """Bytes in, bytes out, by the last word of the method's path."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()
        self.seen: list[dict[str, str]] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        name = details.method.rpartition("/")[2]
        self.seen.append({key: str(value) for key, value in details.invocation_metadata or ()})
        for kind in ("unary_unary", "unary_stream", "stream_stream"):
            function = getattr(self, f"{kind}_{name}", None)
            if function is not None:
                make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
                handler: grpc.RpcMethodHandler[bytes, bytes] = make(function)
                return handler
        return None

    async def unary_unary_echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def unary_unary_fail(self, request: bytes, context: Any) -> bytes:
        code, _, text = request.decode().partition(" ")
        await context.abort(next(each for each in grpc.StatusCode if each.value[0] == int(code)), text)
        return b""

    async def unary_unary_long(self, request: bytes, context: Any) -> bytes:
        return bytes(int(request))

    async def unary_unary_forever(self, request: bytes, context: Any) -> bytes:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""

    async def unary_unary_linger(self, request: bytes, context: Any) -> bytes:
        """Answers when another call has asked it to."""
        self.lingering.set()
        await self.released.wait()
        return b"done"

    async def unary_stream_count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """`number size then`: messages of a size, then an error if there is a third word."""
        number, size, *then = request.decode().split()
        await context.send_initial_metadata((("first", "héllo"[:1]),))
        for each in range(int(number)):
            yield each.to_bytes(4, "big") + bytes(int(size))
        if then:
            await context.abort(grpc.StatusCode.DATA_LOSS, then[0])

    async def unary_stream_endless(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield request
                await asyncio.sleep(0)
        finally:
            self.cancelled.set()

    async def stream_stream_talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            if request == b"stop":
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "stopped: failed precondition")
            yield request[::-1]

    def begin(self) -> None:
        """On the server's event loop."""
        self.lingering, self.released = asyncio.Event(), asyncio.Event()


class Served:
    """grpc's server at a socket, in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handlers = Handlers()
        self.portal = Portal()
        self.server = self.portal.run(self._start())

    async def _start(self) -> grpc.aio.Server:
        self.handlers.begin()
        server = grpc.aio.server(options=[(name, value) for name, value in connections.CHANNEL_OPTIONS[:4]])
        server.add_generic_rpc_handlers((self.handlers,))
        server.add_insecure_port(f"unix:{self.path}")
        await server.start()
        return server

    def stop(self, grace: float | None = None) -> None:
        self.portal.run(self.server.stop(grace))

    def close(self) -> None:
        self.stop()
        self.portal.close()


@pytest.fixture
def served(short_tmp: Path) -> Iterator[Served]:
    served = Served(short_tmp / "s")
    yield served
    served.close()


@pytest.fixture(params=["blocking", "loop", "grpc"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def drive(kind: str, path: Path, case: Case) -> None:
    async def run(channel: Any) -> None:
        connection = Connection(str(path), "ns", channel=channel)
        try:
            await case(connection)
        finally:
            await connection.close()

    async def on_a_loop() -> None:
        await asyncio.wait_for(run(loop.channel(str(path)) if kind == "loop" else None), 60)

    if kind == "blocking":
        blocking.run(run(blocking.channel(str(path))))
    else:
        asyncio.run(on_a_loop())


def method(connection: Connection, name: str, kind: str = "unary_unary") -> Any:
    channel: Any = connection.channel
    return getattr(channel, kind)(f"/test.Test/{name}", request_serializer=bytes, response_deserializer=bytes)


def test_calls_and_their_headers(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        echo = method(connection, "echo")
        for message in (b"", b"x", b"y" * 100_000):
            assert await connection.call(echo, message) == message
        assert await connection.derive(lease="l-1").call(echo, b"z") == b"z"

    drive(kind, served.path, case)
    first, last = served.handlers.seen[0], served.handlers.seen[-1]
    assert first["containerd-namespace"] == last["containerd-namespace"] == "ns"
    assert "containerd-lease" not in first and last["containerd-lease"] == "l-1"


@pytest.mark.parametrize("size", [MIB, 15 * MIB, 16 * MIB])
def test_long_ones(served: Served, kind: str, size: int) -> None:
    async def case(connection: Connection) -> None:
        data = bytes(range(256)) * (size // 256)
        assert await connection.call(method(connection, "echo"), data) == data

    drive(kind, served.path, case)


def test_too_long_ones(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        for name, message in (("echo", bytes(16 * MIB + 1)), ("long", str(16 * MIB + 1).encode())):
            with pytest.raises(errors.ResourceExhausted, match=r"(?i)message larger than max"):
                await connection.call(method(connection, name), message)
        assert await connection.call(method(connection, "echo"), b"still") == b"still"

    drive(kind, served.path, case)


@pytest.mark.parametrize("text", ["container x: not found", "ü 100% \n%41 日本", "long " * 20_000 + "."])
def test_errors_and_their_words(served: Served, kind: str, text: str) -> None:
    async def case(connection: Connection) -> None:
        fail = method(connection, "fail")
        for code, error in errors.BY_CODE.items():
            if code == 1 and kind == "grpc":  # grpc makes a cancellation of it
                continue
            if len(text) > 1000 and code not in (2, 5):
                continue
            with pytest.raises(error) as caught:
                await connection.call(fail, f"{code} {text}".encode())
            assert (caught.value.code, caught.value.message) == (code, text)

    drive(kind, served.path, case)


def test_no_such_method(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        with pytest.raises(errors.Unimplemented):
            await connection.call(method(connection, "nothing"), b"")

    drive(kind, served.path, case)


def test_streams(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        count = method(connection, "count", "unary_stream")
        for number, size in ((0, 0), (1, 0), (3000, 10), (40, MIB)):
            request = f"{number} {size}".encode()
            found = [message[:4] async for message in connection.stream(count, request)]
            assert found == [each.to_bytes(4, "big") for each in range(number)]

    drive(kind, served.path, case)


def test_an_error_after_messages(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        found = []
        with pytest.raises(errors.DataLoss, match="lost"):
            async for message in connection.stream(method(connection, "count", "unary_stream"), b"5 0 lost"):
                found.append(message)
        assert len(found) == 5

    drive(kind, served.path, case)


def test_a_stream_left_early(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        stream = connection.stream(method(connection, "endless", "unary_stream"), b"x" * 1000)
        found = 0
        async for _ in stream:
            found += 1
            if found == 100:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        assert await connection.call(method(connection, "echo"), b"still") == b"still"

    drive(kind, served.path, case)
    assert served.handlers.cancelled.wait(60)


def test_a_slow_reader_and_others(served: Served, kind: str) -> None:
    """40 MiB wait to be read, and other calls pass."""

    async def case(connection: Connection) -> None:
        count = method(connection, "count", "unary_stream")
        slow = connection.stream(count, f"40 {MIB}".encode())
        await anext(slow)
        assert len([message async for message in connection.stream(count, f"40 {MIB}".encode())]) == 40
        assert len([message async for message in slow]) == 39

    drive(kind, served.path, case)


def test_initial_metadata(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        call = method(connection, "count", "unary_stream")(b"1 0", metadata=connection.metadata)
        assert dict(await call.initial_metadata())["first"] == "h"
        assert await call.read() == bytes(4)
        assert not await call.read()

    drive(kind, served.path, case)


def test_talking(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        call = method(connection, "talk", "stream_stream")(metadata=connection.metadata)
        for message in (b"abc", b"x" * MIB, b"", b"d"):
            await call.write(message)
            assert await call.read() == message[::-1]
        await call.done_writing()
        assert not await call.read()

    drive(kind, served.path, case)


def test_talking_that_is_ended(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        call = method(connection, "talk", "stream_stream")(metadata=connection.metadata)
        await call.write(b"stop")
        with pytest.raises(errors.FailedPrecondition, match="stopped"), translated():
            await call.read()
        call.cancel()

    drive(kind, served.path, case)


def test_deadline(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        with pytest.raises(errors.DeadlineExceeded):
            await connection.call(method(connection, "forever"), b"", timeout=0.2)
        assert await connection.call(method(connection, "echo"), b"still", timeout=60) == b"still"

    drive(kind, served.path, case)
    # On a slow machine it needn't have begun.
    assert not served.handlers.begun.is_set() or served.handlers.cancelled.wait(60)


def test_nobody_there(short_tmp: Path, kind: str) -> None:
    async def case(connection: Connection) -> None:
        with pytest.raises(errors.Unavailable, match="connect"):
            await connection.call(method(connection, "echo"), b"")

    drive(kind, short_tmp / "none", case)
    with socket.socket(socket.AF_UNIX) as bound:  # refused
        bound.bind(str(short_tmp / "none"))
        drive(kind, short_tmp / "none", case)


def test_a_daemon_that_comes_back(served: Served, kind: str) -> None:
    """The call under way ends; the next finds the new one, though it was never told to connect again."""

    async def case(connection: Connection) -> None:
        echo = method(connection, "echo")
        stream = connection.stream(method(connection, "endless", "unary_stream"), b"x")
        await anext(stream)
        served.stop()
        with pytest.raises((errors.Unavailable, errors.Canceled)):
            async for _ in stream:
                pass
        with pytest.raises(errors.Unavailable):
            await connection.call(echo, b"")
        served.server = served.portal.run(served._start())
        for attempt in range(600):
            try:
                assert await connection.call(echo, b"back") == b"back"
                return
            except errors.Unavailable:
                if kind != "grpc" or attempt > 500:  # which backs off
                    raise
                await asyncio.sleep(0.1)

    drive(kind, served.path, case)


def test_a_daemon_that_goes_away_answers_first(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        call = asyncio.ensure_future(connection.call(method(connection, "linger"), b""))
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(served.handlers.lingering.wait(), served.portal.loop)
        )
        stopping = asyncio.run_coroutine_threadsafe(served.server.stop(60), served.portal.loop)
        with pytest.raises((errors.Unavailable, errors.Canceled)):
            while True:  # until it takes no more
                await connection.call(method(connection, "echo"), b"", timeout=60)
        served.portal.call(served.handlers.released.set)
        assert await call == b"done"
        await asyncio.wrap_future(stopping)

    if kind != "blocking":  # one call at a time
        drive(kind, served.path, case)


def test_cancelled_by_its_task(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        task = asyncio.ensure_future(connection.call(method(connection, "forever"), b""))
        while not served.handlers.begun.is_set():
            assert await connection.call(method(connection, "echo"), b"x") == b"x"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await connection.call(method(connection, "echo"), b"still") == b"still"

    if kind != "blocking":
        drive(kind, served.path, case)
        assert served.handlers.cancelled.wait(60)


def test_cancelled_while_another_waits_for_it(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        call = method(connection, "talk", "stream_stream")(metadata=connection.metadata)
        await call.write(b"ab")
        assert await call.read() == b"ba"
        reading = asyncio.ensure_future(call.read())
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises((errors.Canceled, asyncio.CancelledError)):
            await reading

    if kind != "blocking":
        drive(kind, served.path, case)


def test_many_at_once(served: Served, kind: str) -> None:
    async def case(connection: Connection) -> None:
        echo = method(connection, "echo")
        messages = [str(number).encode() * 50_000 for number in range(100)]
        assert await asyncio.gather(*(connection.call(echo, message) for message in messages)) == messages

    if kind != "blocking":
        drive(kind, served.path, case)


@contextmanager
def peer(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """A server of one connection that reads the question and does what it likes."""

    def serve() -> None:
        with listening.accept()[0] as connection:
            while b"/test.Test/" not in connection.recv(1 << 16):
                pass
            answer(connection)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def _resets(connection: socket.socket) -> None:
    """Unread bytes make the close a reset."""
    connection.sendall(bytes(9))


@pytest.mark.parametrize(
    "answer",
    [
        lambda connection: None,
        _resets,
        lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ],
    ids=["closes", "resets", "speaks HTTP/1"],
)
def test_a_peer_that_dies(short_tmp: Path, kind: str, answer: Callable[[socket.socket], None]) -> None:
    async def case(connection: Connection) -> None:
        with pytest.raises(errors.Unavailable):
            await connection.call(method(connection, "echo"), b"", timeout=60)

    if kind != "grpc":  # which connects again
        with peer(short_tmp / "s", answer):
            drive(kind, short_tmp / "s", case)


def test_ready(served: Served) -> None:
    async def case(connection: Connection) -> None:
        await connection.channel.channel_ready()

    drive("loop", served.path, case)
    drive("blocking", served.path, case)
    served.stop()
    with pytest.raises(errors.Unavailable):
        drive("loop", served.path, case)


def test_what_needs_an_event_loop_says_so(served: Served) -> None:
    async def waits() -> None:
        await asyncio.sleep(1)

    with pytest.raises(RuntimeError):
        blocking.run(waits())


def test_grpc_is_not_imported() -> None:
    import subprocess

    code = "import sys, longshore.client.client, longshore.client.version, longshore.client.wire.blocking\n"
    code += "assert not {'grpc', 'asyncio', 'socket'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
