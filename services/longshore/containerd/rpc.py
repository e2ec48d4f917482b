"""Between grpc.aio and the services: calls come in, answers and errors go out, here and nowhere else.

A service derives from its generated servicer and decorates each method::

    class Namespaces(NamespacesServicer):
        @rpc.unary(mutates=True)
        async def Create(self, request: CreateNamespaceRequest, call: rpc.Call) -> CreateNamespaceResponse:
            ...

It raises `longshore.api.errors`; this module turns them into a status. It is
added to the server through a `Registrar`, which takes what every service needs
from it: undecodable requests answered as Go answers them, responses that are
bytes already sent as they are, and unknown methods refused by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeVar, cast

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage

from longshore.api import errors, namespaces
from longshore.containerd.oserrors import FULL, words

log = structlog.get_logger("rpc")

Self_ = TypeVar("Self_")
Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")
Kind = TypeVar("Kind", bound=ProtobufMessage)

Context = grpc.aio.ServicerContext[Any, Any]

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_INTERNAL_PREFIX = "internal error: "
_CLASS_NAME = re.compile(r"\b(?:[A-Za-z_]+\.)*[A-Z][A-Za-z]*(?:Error|Exception)\b:? ?")

# Characters of an error's text that are sent; even percent-encoded it must fit into what clients take as headers.
MAX_MESSAGE = 200_000

# Set on handlers that know what to do with `Garbage`.
_TAKES_GARBAGE = "takes_garbage"
_IN_A_STREAM = "grpc: failed to unmarshal the received message: "


class Call:
    """One call as a service sees it: who calls, in which namespace, under which lease."""

    __slots__ = ("_headers", "context")

    def __init__(self, context: Context) -> None:
        self.context = context
        self._headers: dict[str, str | bytes] | None = None

    def header(self, name: str) -> str:
        """The first value of a request header ("" if absent): Go clients prepend theirs to what they pass on."""
        headers = self._headers
        if headers is None:
            headers = {}
            for key, value in self.context.invocation_metadata() or ():
                headers.setdefault(key, value)
            self._headers = headers
        value = headers.get(name, "")
        return value if isinstance(value, str) else value.decode("utf-8", "replace")

    @property
    def namespace(self) -> str:
        """The caller's namespace. Raises FailedPrecondition if none was sent, InvalidArgument if malformed."""
        return namespaces.require_namespace(self.header(namespaces.GRPC_HEADER))

    @property
    def lease(self) -> str:
        """The lease that owns what this call creates, "" if none."""
        return self.header(namespaces.LEASE_HEADER)


# -- decorators ---------------------------------------------------------------------------------------------


def unary(
    *, mutates: bool = False
) -> Callable[
    [Callable[[Self_, Request, Call], Coroutine[Any, Any, Response]]],
    Callable[[Self_, Request, Any], Awaitable[Response]],
]:
    """A method with one request and one response.

    With `mutates`, the body runs as a task of its own: the client's cancel or
    deadline ends the wait for the answer and never the work, so that no object
    is left half made.
    """

    def decorate(
        method: Callable[[Self_, Request, Call], Coroutine[Any, Any, Response]],
    ) -> Callable[[Self_, Request, Any], Awaitable[Response]]:
        @functools.wraps(method)
        async def handler(self: Self_, request: Request, context: Context) -> Response:
            if type(request) is Garbage:
                await _refuse_garbage(context, cast(Garbage, request))
            try:
                body = method(self, request, Call(context))
                return await (shielded(body) if mutates else body)
            except Exception as error:
                return await _abort(context, error, method)

        setattr(handler, _TAKES_GARBAGE, True)
        return handler

    return decorate


def server_stream(
    method: Callable[[Self_, Request, Call], AsyncGenerator[Response, None]],
) -> Callable[[Self_, Request, Any], AsyncIterator[Response]]:
    """An async generator answering one request with many messages; closed (`finally` runs) when the client goes."""

    @functools.wraps(method)
    async def handler(self: Self_, request: Request, context: Context) -> None:
        if type(request) is Garbage:
            await _refuse_garbage(context, cast(Garbage, request), _IN_A_STREAM)
        await _send_all(method(self, request, Call(context)), context, method)

    setattr(handler, _TAKES_GARBAGE, True)
    return cast("Callable[[Self_, Request, Any], AsyncIterator[Response]]", handler)


def bidi_stream(
    method: Callable[[Self_, AsyncIterator[Request], Call], AsyncGenerator[Response, None]],
) -> Callable[[Self_, Any, Any], AsyncIterator[Response]]:
    """An async generator fed by an async iterator of requests; the latter ends when the client half-closes.

    A client that breaks off cancels the generator at its await: wrap what must
    not be torn in `shielded`.
    """

    @functools.wraps(method)
    async def handler(self: Self_, requests: AsyncIterator[Request], context: Context) -> None:
        await _send_all(method(self, _checked(requests), Call(context)), context, method)

    setattr(handler, _TAKES_GARBAGE, True)
    return cast("Callable[[Self_, Any, Any], AsyncIterator[Response]]", handler)


async def _send_all(answers: AsyncGenerator[Any, None], context: Context, method: Callable[..., Any]) -> None:
    # Written by hand and not returned as a generator: grpc.aio leaves a cancelled generator to the
    # garbage collector, and with it locks and subscriptions.
    try:
        async with contextlib.aclosing(answers):
            async for answer in answers:
                await context.write(answer)
    except Exception as error:
        await _abort(context, error, method)


async def _checked(requests: AsyncIterator[Request]) -> AsyncIterator[Request]:
    async for request in requests:
        if type(request) is Garbage:
            raise errors.Internal(_IN_A_STREAM + cast(Garbage, request).reason)
        yield request


# -- work that a client can't interrupt ---------------------------------------------------------------------

_unfinished: set[asyncio.Task[Any]] = set()


async def shielded(body: Coroutine[Any, Any, Result]) -> Result:
    """Run `body` to its end whatever happens to the caller; a failure nobody waits for any more is logged."""
    task = asyncio.get_running_loop().create_task(body)
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_log_abandoned)
        raise


def _log_abandoned(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("call failed after its client had gone", error=str(error))


async def finish_shielded(timeout: float) -> None:
    """Wait until no shielded work is left, before the store closes; at most `timeout` seconds."""
    deadline = asyncio.get_running_loop().time() + timeout
    while _unfinished and (left := deadline - asyncio.get_running_loop().time()) > 0:
        await asyncio.wait(set(_unfinished), timeout=left)
    if _unfinished:
        log.error("giving up on unfinished calls", calls=[str(task.get_coro()) for task in _unfinished])


# -- errors -------------------------------------------------------------------------------------------------


async def _abort(context: Context, error: Exception, method: Callable[..., Any]) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    code, message = status_of(error)
    if code == errors.ResourceExhausted.code and isinstance(error, OSError):
        log.warning("a call failed", method=method.__qualname__, error=message)
    elif not isinstance(error, errors.Error):
        log.error("unexpected error in a call", method=method.__qualname__, exc_info=error)
    await context.abort(_STATUS[code], message)


def status_of(error: BaseException) -> tuple[int, str]:
    """gRPC code and message of an exception; what isn't ours becomes UNKNOWN "internal error: ...".

    A full disk is the machine's state, wherever it is met, and no fault of ours.
    Names of classes are for the log: clients shall not learn what language this is written in.
    """
    if isinstance(error, errors.Error):
        return error.code, _sendable(error.message)
    if isinstance(error, OSError) and error.errno in FULL:
        return errors.ResourceExhausted.code, _sendable(f"{_plain(error)}: resource exhausted")
    return errors.Error.code, _sendable(f"{_INTERNAL_PREFIX}{_plain(error)}")


def _plain(error: BaseException) -> str:
    """What happened, in words."""
    if isinstance(error, OSError) and error.strerror:
        return words(error)
    if isinstance(error, BaseExceptionGroup):
        return _plain(error.exceptions[0])
    if isinstance(error, LookupError):  # its text is the key alone
        return "unexpected state of the daemon, see its log"
    return _CLASS_NAME.sub("", str(error)) or "see the daemon's log"


def _sendable(text: str) -> str:
    """Valid UTF-8 (names of files may not be) of bounded length."""
    clean = text.encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= MAX_MESSAGE else f"{clean[:MAX_MESSAGE]}..."


# -- registration -------------------------------------------------------------------------------------------


class Garbage:
    """What stands in for a request that could not be decoded."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


async def _refuse_garbage(
    context: Context, garbage: Garbage, words: str = "grpc: error unmarshalling request: "
) -> NoReturn:
    await context.abort(grpc.StatusCode.INTERNAL, words + garbage.reason)


def encoded(kind: type[Kind], data: bytes) -> Kind:
    """`data` is a serialised `kind` already and goes out as it is: for records that are stored as bytes."""
    return cast("Kind", data)


def field(number: int, data: bytes) -> bytes:
    """One length-delimited protobuf field: with it, stored records are joined into a response."""
    header = bytearray()
    for value in (number << 3 | 2, len(data)):
        while value > 0x7F:
            header.append(value & 0x7F | 0x80)
            value >>= 7
        header.append(value)
    return bytes(header) + data


def _deserializer(from_string: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize(data: bytes) -> Any:
        try:
            return from_string(data)
        except DecodeError as error:
            return Garbage(errors.undecodable(error))

    return deserialize


def _serializer(to_string: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda answer: answer if type(answer) is bytes else to_string(answer)


class _HandlerFields(Protocol):
    """grpc.RpcMethodHandler is a named tuple; its published type doesn't say so."""

    request_deserializer: Callable[[bytes], Any] | None
    response_serializer: Callable[[Any], bytes] | None
    unary_unary: Callable[..., Any] | None
    unary_stream: Callable[..., Any] | None
    stream_stream: Callable[..., Any] | None

    def _replace(self, **fields: Any) -> grpc.RpcMethodHandler[Any, Any]: ...


Behaviour = Callable[[Any, Any], Awaitable[Any]]
_TYPES = {"unary_unary": "unary", "unary_stream": "server_stream", "stream_stream": "bidi_stream"}


class Registrar(grpc.GenericRpcHandler):
    """Stands where ``add_XServicer_to_server`` expects a server; the server gets the collected handlers at once."""

    def __init__(self) -> None:
        self.services: list[str] = []
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generated code adds each service twice; the other call has all we need."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self.services.append(service_name)
        for name, handler in method_handlers.items():
            fields = cast(_HandlerFields, handler)
            assert fields.request_deserializer and fields.response_serializer
            ours = any(
                getattr(behaviour, _TAKES_GARBAGE, False)
                for behaviour in (fields.unary_unary, fields.unary_stream, fields.stream_stream)
            )
            self._handlers[f"/{service_name}/{name}"] = (
                fields._replace(
                    request_deserializer=_deserializer(fields.request_deserializer),
                    response_serializer=_serializer(fields.response_serializer),
                )
                if ours
                else handler
            )

    def wrap(self, wrapper: Callable[[str, str, Behaviour], Behaviour]) -> None:
        """Put ``wrapper(type, path, behaviour)`` in place of each behaviour of our services that there is so far."""
        for path, handler in self._handlers.items():
            for name, type in _TYPES.items():
                behaviour = getattr(handler, name)
                if getattr(behaviour, _TAKES_GARBAGE, False):
                    fields = cast(_HandlerFields, handler)._replace(**{name: wrapper(type, path, behaviour)})
                    self._handlers[path] = fields

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        handler = self._handlers.get(details.method)
        return handler if handler is not None else _unknown(details.method, self.services)


def _unknown(method: str, services: Sequence[str]) -> grpc.RpcMethodHandler[Any, Any]:
    service, slash, name = method.removeprefix("/").rpartition("/")
    if not slash:
        text = f'malformed method name: "{method}"'
    elif service in services:
        text = f"unknown method {name} for service {service}"
    else:
        text = f"unknown service {service}"

    async def refuse(_requests: AsyncIterator[bytes], context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

    return grpc.stream_stream_rpc_method_handler(refuse)
