"""Channels that a stub takes, and their calls: the part of `grpc.aio`'s that the SDK uses.

A channel connects when it is first called, again when its connection is gone,
and gives up a call at once when there is nobody: waiting is the caller's
business. A failed call raises one of `longshore.api.errors`.

How bytes come and go is left to a subclass (`Carrier`): its `wait` returns
when something may have happened to a call. Nothing else here awaits anything,
so that a carrier that blocks makes coroutines that run to their end in one go.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import monotonic
from typing import Generic, Protocol, TypeVar

from longshore.api import errors
from longshore.client.wire import http2

Q = TypeVar("Q")
R = TypeVar("R")

Metadata = Sequence[tuple[str, str]]


class Carrier(ABC):
    """A connection under way or there: a conversation, and how its bytes travel."""

    def __init__(self) -> None:
        self.conversation = http2.Conversation()

    @abstractmethod
    def flush(self) -> None:
        """Write what the conversation has to say (as much as goes, the rest later), and wake who waits for it."""

    @abstractmethod
    async def wait(self, stream: http2.Stream | None, until: float | None) -> None:
        """Until something has happened to the stream (None: to the connection). TimeoutError at `until` (monotonic)."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; calls under way end Unavailable."""


class Connecting(Protocol):
    """How a channel connects: ConnectionError and other OSErrors when there is nobody."""

    def __call__(self, path: str) -> Awaitable[Carrier]: ...


class Method(Generic[Q, R]):
    """What a stub knows of a method."""

    def __init__(
        self, channel: Channel, path: str, encode: Callable[[Q], bytes], decode: Callable[[bytes], R]
    ) -> None:
        self.channel = channel
        self.path = path
        self.encode = encode
        self.decode = decode


class UnaryUnary(Method[Q, R]):
    async def __call__(
        self, request: Q, *, metadata: Metadata | None = None, timeout: float | None = None
    ) -> R:
        call = Call(self, metadata or (), timeout, request)
        try:
            answer = await call.read()
            if answer is None:
                raise errors.Internal("the daemon answered nothing: internal error")
            await call.end()
            return answer
        finally:
            call.cancel()


class UnaryStream(Method[Q, R]):
    def __call__(
        self, request: Q, *, metadata: Metadata | None = None, timeout: float | None = None
    ) -> Call[Q, R]:
        return Call(self, metadata or (), timeout, request)


class StreamStream(Method[Q, R]):
    def __call__(self, *, metadata: Metadata | None = None, timeout: float | None = None) -> Call[Q, R]:
        return Call(self, metadata or (), timeout)


class Call(Generic[Q, R]):
    """One call. It starts with the first thing that is awaited of it. For one task at a time, but for `cancel`."""

    def __init__(
        self, method: Method[Q, R], metadata: Metadata, timeout: float | None, request: Q | None = None
    ) -> None:
        self._method = method
        self._metadata = metadata
        self._timeout = timeout
        self._until = None if timeout is None else monotonic() + timeout
        self._request = request
        self._carrier: Carrier | None = None
        self._stream: http2.Stream | None = None
        self._over = False

    async def _start(self) -> tuple[Carrier, http2.Stream]:
        if self._carrier is not None and self._stream is not None:
            return self._carrier, self._stream
        if self._over:
            raise errors.Canceled("cancelled")
        message = None if self._request is None else self._method.encode(self._request)
        self._request = None
        self._check(message)
        carrier = await self._method.channel.carrier(self._until)
        conversation = carrier.conversation
        stream = conversation.open(self._method.path, self._metadata, self._timeout)
        if message is not None:
            conversation.send(stream, message, last=True)
        self._carrier, self._stream = carrier, stream
        carrier.flush()
        return carrier, stream

    @staticmethod
    def _check(message: bytes | None) -> None:
        if message is not None and len(message) > http2.MESSAGE_LIMIT:
            raise errors.ResourceExhausted(
                f"sent message larger than max ({len(message)} vs. {http2.MESSAGE_LIMIT})"
            )

    async def _wait(self, carrier: Carrier, stream: http2.Stream) -> None:
        """Raises DeadlineExceeded; however it ends early, the daemon hears of it."""
        try:
            await carrier.wait(stream, self._until)
        except TimeoutError:
            self.cancel()
            raise errors.DeadlineExceeded("deadline exceeded") from None
        except BaseException:
            self.cancel()
            raise

    async def write(self, message: Q) -> None:
        """Send one message; returns when the daemon has taken it. Raises what the call has ended with."""
        data = self._method.encode(message)
        self._check(data)
        carrier, stream = await self._start()
        carrier.conversation.send(stream, data)
        carrier.flush()
        while stream.unsent and stream.status is None:
            await self._wait(carrier, stream)
        _raise_for(stream)

    async def done_writing(self) -> None:
        carrier, stream = await self._start()
        carrier.conversation.finish(stream)
        carrier.flush()

    async def read(self) -> R | None:
        """The next message; None when the daemon has ended the call well. Raises its status otherwise."""
        carrier, stream = await self._start()
        while not stream.messages and stream.status is None:
            await self._wait(carrier, stream)
        if not stream.messages:
            _raise_for(stream)
            return None
        data = carrier.conversation.pop(stream)
        carrier.flush()
        return self._method.decode(data)

    async def end(self) -> None:
        """Wait for the status, raise it if it is an error."""
        carrier, stream = await self._start()
        while stream.status is None:
            await self._wait(carrier, stream)
        _raise_for(stream)

    async def initial_metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers that the daemon sent first; waits for them."""
        carrier, stream = await self._start()
        while stream.headers is None and stream.status is None:
            await self._wait(carrier, stream)
        if stream.headers is None:
            _raise_for(stream)
        return tuple((stream.headers or {}).items())

    async def __aiter__(self) -> AsyncIterator[R]:
        while (message := await self.read()) is not None:
            yield message

    def cancel(self) -> None:
        """Give the call up; nothing happens if it is over."""
        self._over = True
        if self._carrier is not None and self._stream is not None and self._stream.status is None:
            self._carrier.conversation.cancel(self._stream)
            self._carrier.flush()


def _raise_for(stream: http2.Stream) -> None:
    if stream.status:
        raise errors.from_code(stream.status, stream.details)


class Channel:
    """Calls to the socket at `path`, over connections that `connect` makes."""

    def __init__(self, path: str, connect: Connecting) -> None:
        self.path = path
        self._connect = connect
        self._carrier: Carrier | None = None

    async def carrier(self, until: float | None = None) -> Carrier:
        """A connection that takes calls. Raises Unavailable."""
        found = self._carrier
        if found is not None and found.conversation.usable:
            return found
        if found is not None and found.conversation.idle:
            found.close()
        try:
            made = await self._connect(self.path)
        except OSError as error:
            words = error.strerror or str(error)
            raise errors.Unavailable(f"failed to connect to {self.path}: {words}") from None
        found = self._carrier
        if found is not None and found.conversation.usable:  # another call was faster
            made.close()
            return found
        self._carrier = made
        return made

    async def channel_ready(self) -> None:
        """Until there is a daemon that has said something. Raises Unavailable when there is nobody."""
        carrier = await self.carrier()
        while not carrier.conversation.greeted:
            await carrier.wait(None, None)
            if carrier.conversation.lost:
                raise errors.Unavailable(carrier.conversation.lost)

    async def close(self) -> None:
        if self._carrier is not None:
            self._carrier.close()

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Q], bytes],
        response_deserializer: Callable[[bytes], R],
        _registered_method: bool = False,
    ) -> UnaryUnary[Q, R]:
        return UnaryUnary(self, path, request_serializer, response_deserializer)

    def unary_stream(
        self,
        path: str,
        request_serializer: Callable[[Q], bytes],
        response_deserializer: Callable[[bytes], R],
        _registered_method: bool = False,
    ) -> UnaryStream[Q, R]:
        return UnaryStream(self, path, request_serializer, response_deserializer)

    def stream_stream(
        self,
        path: str,
        request_serializer: Callable[[Q], bytes],
        response_deserializer: Callable[[bytes], R],
        _registered_method: bool = False,
    ) -> StreamStream[Q, R]:
        return StreamStream(self, path, request_serializer, response_deserializer)
