"""From a method to a gRPC handler: errors, cancels, and what is closed when a client goes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from longshore.api import errors
from longshore.containerd import rpc


class Service:
    """What calls do is set by each test."""

    def __init__(self) -> None:
        self.work: Callable[[str], Awaitable[str]] = self._echo
        self.log: list[str] = []
        self.changed = asyncio.Event()

    async def _echo(self, text: str) -> str:
        return text

    def note(self, text: str) -> None:
        self.log.append(text)
        self.changed.set()

    async def noted(self, text: str) -> None:
        async with asyncio.timeout(60):
            while text not in self.log:
                await self.changed.wait()
                self.changed.clear()

    @rpc.unary()
    async def Read(self, request: StringValue, call: rpc.Call) -> StringValue:
        return StringValue(value=await self.work(request.value))

    @rpc.unary(mutates=True)
    async def Write(self, request: StringValue, call: rpc.Call) -> StringValue:
        return StringValue(value=await self.work(request.value))

    @rpc.unary()
    async def Stored(self, request: StringValue, call: rpc.Call) -> BytesValue:
        return rpc.encoded(BytesValue, rpc.field(1, b"x" * int(request.value)))

    @rpc.unary()
    async def Headers(self, request: StringValue, call: rpc.Call) -> StringValue:
        return StringValue(value=f"{call.namespace} {call.lease} {call.header(request.value)}")

    @rpc.server_stream
    async def Count(self, request: StringValue, call: rpc.Call) -> AsyncGenerator[StringValue, None]:
        try:
            for number in range(1_000_000):
                yield StringValue(value=await self.work(str(number)))
        finally:
            self.note("count closed")

    @rpc.bidi_stream
    async def Chat(
        self, requests: AsyncIterator[StringValue], call: rpc.Call
    ) -> AsyncGenerator[StringValue, None]:
        try:
            async for request in requests:
                yield StringValue(value=await self.work(request.value))
        finally:
            self.note("chat closed")


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def channel(service: Service, short_tmp: Path) -> AsyncIterator[grpc.aio.Channel]:
    registrar = rpc.Registrar()
    registrar.add_registered_method_handlers("test.Service", _handlers(service))
    server = grpc.aio.server(handlers=[registrar])
    server.add_insecure_port(f"unix:{short_tmp}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{short_tmp}/s") as opened:
        yield opened
    await server.stop(0)
    await rpc.finish_shielded(60)


def _handlers(service: Service) -> dict[str, Any]:
    codec: dict[str, Any] = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    unary: Any = grpc.unary_unary_rpc_method_handler
    handlers = {
        name: unary(getattr(service, name), **codec) for name in ("Read", "Write", "Stored", "Headers")
    }
    server_stream: Any = grpc.unary_stream_rpc_method_handler
    bidi: Any = grpc.stream_stream_rpc_method_handler
    return handlers | {"Count": server_stream(service.Count, **codec), "Chat": bidi(service.Chat, **codec)}


def call(channel: grpc.aio.Channel, method: str, text: str = "", **options: Any) -> Any:
    stub: Any = channel.unary_unary(
        f"/test.Service/{method}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    return stub(StringValue(value=text), **options)


async def failure(awaitable: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code(), caught.value.details() or ""


async def test_an_answer(channel: grpc.aio.Channel) -> None:
    assert (await call(channel, "Read", "hello")).value == "hello"


@pytest.mark.parametrize("kind", errors.BY_CODE.values())
async def test_errors_keep_class_and_text(
    channel: grpc.aio.Channel, service: Service, kind: type[errors.Error]
) -> None:
    async def fail(text: str) -> str:
        raise kind(f"thing {text}: é\n")

    service.work = fail
    code, text = await failure(call(channel, "Write", "x"))
    assert (code.value[0], text) == (kind.code, "thing x: é\n")


async def test_unexpected_errors_are_unknown_and_show_no_traceback(
    channel: grpc.aio.Channel, service: Service
) -> None:
    async def fail(text: str) -> str:
        raise KeyError(text)

    service.work = fail
    assert await failure(call(channel, "Read", "x")) == (
        grpc.StatusCode.UNKNOWN,
        "internal error: unexpected state of the daemon, see its log",
    )


def test_a_full_disk_is_no_internal_error() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/r/config.json")
    words = "/r/config.json: no space left on device: resource exhausted"
    assert rpc.status_of(full) == (errors.ResourceExhausted.code, words)
    assert rpc.status_of(OSError(errno.EIO, "Input/output error"))[0] == errors.Error.code


def test_texts_of_errors_can_be_sent() -> None:
    """Names of files may hold bytes that are no UTF-8, and a status travels in headers of limited size."""
    assert rpc.status_of(errors.NotFound("file \udcff: not found")) == (5, "file \\udcff: not found")
    assert len(rpc.status_of(errors.Error("x" * 10_000_000))[1]) == rpc.MAX_MESSAGE + 3


async def test_a_cancelled_write_goes_on_to_its_end(channel: grpc.aio.Channel, service: Service) -> None:
    release = asyncio.Event()

    async def slow(text: str) -> str:
        service.note("begun")
        await release.wait()
        service.note("ended")
        return text

    service.work = slow
    cancelled = call(channel, "Write")
    await service.noted("begun")
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    timeout = 0.05
    while service.log.count("begun") == 1:  # on a slow machine a call may be late before it arrives
        late = call(channel, "Write", timeout=timeout)
        assert (await failure(late))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        timeout *= 2
    release.set()
    await service.noted("ended")
    await rpc.finish_shielded(60)
    assert service.log.count("ended") == service.log.count("begun") > 1


async def test_a_cancelled_read_ends(channel: grpc.aio.Channel, service: Service) -> None:
    async def slow(text: str) -> str:
        service.note("begun")
        try:
            await asyncio.Event().wait()
        finally:
            service.note("ended")
        return text

    service.work = slow
    cancelled = call(channel, "Read")
    await service.noted("begun")
    cancelled.cancel()
    await service.noted("ended")


async def test_waiting_for_unfinished_work_has_an_end() -> None:
    forever = asyncio.Event()
    waiting = asyncio.create_task(rpc.shielded(_wait(forever)))
    await asyncio.sleep(0)
    await rpc.finish_shielded(0.01)
    forever.set()
    await waiting


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def test_a_stream_is_closed_when_its_client_goes(channel: grpc.aio.Channel, service: Service) -> None:
    stub: Any = channel.unary_stream("/test.Service/Count", request_serializer=StringValue.SerializeToString)
    stream = stub(StringValue())
    await stream.read()
    stream.cancel()
    await service.noted("count closed")


async def test_a_bidirectional_stream_answers_and_closes(channel: grpc.aio.Channel, service: Service) -> None:
    stub: Any = channel.stream_stream(
        "/test.Service/Chat",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    stream = stub()
    for text in ("a", "b"):
        await stream.write(StringValue(value=text))
        assert (await stream.read()).value == text
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    await service.noted("chat closed")


async def test_bytes_that_do_not_decode_are_refused(channel: grpc.aio.Channel) -> None:
    unary, stream = "error unmarshalling request", "failed to unmarshal the received message"
    for method, words in (("Read", unary), ("Write", unary), ("Count", stream)):
        raw: Any = channel.unary_unary(f"/test.Service/{method}")
        for data, why in (
            (b"\x0a\xff", "cannot parse invalid wire-format data"),
            (b"\x0a\x01\xff", "string field contains invalid UTF-8"),
        ):
            assert await failure(raw(data)) == (grpc.StatusCode.INTERNAL, f"grpc: {words}: proto: {why}")


@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000])
async def test_stored_bytes_go_out_as_they_are(channel: grpc.aio.Channel, size: int) -> None:
    stub: Any = channel.unary_unary(
        "/test.Service/Stored",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=BytesValue.FromString,
    )
    assert (await stub(StringValue(value=str(size)))).value == b"x" * size


def test_field_headers_of_high_numbers() -> None:
    assert rpc.field(16, b"ab") == b"\x82\x01\x02ab"


async def test_headers(channel: grpc.aio.Channel) -> None:
    headers = (("containerd-namespace", "ns"), ("containerd-namespace", "other"), ("containerd-lease", "l"))
    assert (await call(channel, "Headers", "x-no", metadata=headers)).value == "ns l "
    assert await failure(call(channel, "Headers")) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "namespace is required: failed precondition",
    )


async def test_unknown_methods_are_named(channel: grpc.aio.Channel) -> None:
    assert await failure(call(channel, "Nothing")) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "unknown method Nothing for service test.Service",
    )
    raw: Any = channel.unary_unary("/other/Method")
    assert await failure(raw(b"")) == (grpc.StatusCode.UNIMPLEMENTED, "unknown service other")
