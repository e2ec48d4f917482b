"""The client's half: framing of unary calls without a socket, and a blocking client on one.

`Calls` is bytes in, results out, for event loops. `Client` is the plain
thing for command lines and tests: one call at a time on a Unix socket.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from longshore.api.errors import Error, Internal, Unavailable, from_code, undecodable
from longshore.api.ttrpc.request_pb2 import KeyValue, Request, Response
from longshore.ttrpc import frames

Metadata = Mapping[str, Sequence[str]]
NO_METADATA: Metadata = {}
Reply = TypeVar("Reply", bound=Message)


class Result(NamedTuple):
    """The answer to the call sent on `stream`: a payload or an error."""

    stream: int
    payload: bytes
    error: Error | None


class Calls:
    """The calls of one connection."""

    def __init__(self) -> None:
        self._decoder = frames.Decoder()
        self._next_stream = 1

    def send(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> tuple[int, bytes]:
        """Frame a call: its stream id and the bytes to write. `timeout` in seconds.

        Raises ResourceExhausted when the request is too large to send.
        """
        request = Request(service=service, method=method, payload=payload)
        if timeout is not None:
            request.timeout_nano = int(timeout * 1e9)
        request.metadata.extend(KeyValue(key=k, value=v) for k, values in metadata.items() for v in values)
        stream = self._next_stream
        data = frames.encode(frames.Frame(stream, frames.REQUEST, 0, request.SerializeToString()))
        self._next_stream += 2
        return stream, data

    def receive(self, data: bytes) -> list[Result]:
        """Take received bytes; return the answers that they completed."""
        return [_result(frame) for frame in self._decoder.feed(data) if frame.kind == frames.RESPONSE]


def _result(frame: frames.Frame) -> Result:
    if frame.oversize:
        return Result(frame.stream, b"", frames.oversized(frame.oversize))
    response = Response()
    try:
        response.ParseFromString(frame.data)
    except DecodeError as error:
        return Result(frame.stream, b"", Internal(f"unmarshal response: {undecodable(error)}"))
    if response.status.code:
        return Result(frame.stream, b"", from_code(response.status.code, response.status.message))
    return Result(frame.stream, response.payload, None)


class Client:
    """A blocking client. Usable as a context manager; not for use by two threads at once."""

    def __init__(self, address: str, *, timeout: float | None = 10.0) -> None:
        """Connect to ``unix://PATH`` or a path. Raises OSError. `timeout` (seconds) also bounds each call."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._timeout = timeout
        self._calls = Calls()
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(address.removeprefix("unix://"))
        except BaseException:
            self._socket.close()
            raise

    def call(
        self,
        service: str,
        method: str,
        request: Message,
        reply: type[Reply],
        *,
        timeout: float | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> Reply:
        """Call and wait. Raises the peer's `Error`, TimeoutError, or Unavailable when the peer hung up."""
        budget = self._timeout if timeout is None else timeout
        stream, data = self._calls.send(
            service, method, request.SerializeToString(), timeout=budget, metadata=metadata
        )
        self._socket.settimeout(budget)
        self._socket.sendall(data)
        message = reply()
        message.ParseFromString(self._await(stream))
        return message

    def _await(self, stream: int) -> bytes:
        while data := self._socket.recv(65536):
            for result in self._calls.receive(data):
                if result.stream != stream:
                    continue  # the late answer to a call that timed out
                if result.error is not None:
                    raise result.error
                return result.payload
        raise Unavailable("ttrpc: closed")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
