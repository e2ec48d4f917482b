"""The server's half of one ttrpc connection: bytes in, calls out. No socket in this file.

Whoever owns the socket feeds what it reads to `receive`, carries out the calls
in any order, answers each once by `respond` or `fail`, and writes what `take`
returns. What a peer does wrong on a stream is answered on that stream; the
connection lives on. Streaming methods are not served: a shim has none.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from longshore.api.errors import Error, InvalidArgument, undecodable
from longshore.api.ttrpc.request_pb2 import Request, Response
from longshore.ttrpc import frames


class Call(NamedTuple):
    """A unary call. `timeout_nano` is the client's whole budget in ns, 0 for none."""

    stream: int
    service: str
    method: str
    payload: bytes
    timeout_nano: int
    metadata: dict[str, list[str]]


def status(error: BaseException) -> Status:
    """The google.rpc.Status a client sees: class and text of ours, UNKNOWN and the text of anything else."""
    if isinstance(error, Error):
        return Status(code=error.code, message=error.message)
    return Status(code=Error.code, message=str(error) or type(error).__name__)


class Connection:
    """One client."""

    def __init__(self) -> None:
        self._decoder = frames.Decoder()
        self._last_stream = 0
        self._out: list[bytes] = []

    def receive(self, data: bytes) -> list[Call]:
        """Take received bytes; return the calls that they completed, in order."""
        calls = []
        for frame in self._decoder.feed(data):
            try:
                call = self._accept(frame)
            except Error as error:
                self.fail(frame.stream, error)
                continue
            if call is not None:
                calls.append(call)
        return calls

    def respond(self, stream: int, message: Message) -> None:
        """Answer a call with its result (ResourceExhausted when that is too large to send)."""
        self._answer(stream, Response(payload=message.SerializeToString()))

    def fail(self, stream: int, error: BaseException) -> None:
        """Answer a call with an error."""
        self._answer(stream, Response(status=status(error)))

    def take(self) -> bytes:
        """The bytes to write now; they are forgotten here."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _answer(self, stream: int, response: Response) -> None:
        try:
            data = frames.encode(frames.Frame(stream, frames.RESPONSE, 0, response.SerializeToString()))
        except Error as error:
            self.fail(stream, error)
        else:
            self._out.append(data)

    def _accept(self, frame: frames.Frame) -> Call | None:
        if frame.kind == frames.DATA:
            # What remains of a streaming call that was refused, or answered already.
            return None
        if frame.kind != frames.REQUEST:
            raise InvalidArgument(f"unexpected message type {frame.kind}: invalid argument")
        self._check_stream(frame.stream)
        if frame.oversize:
            raise frames.oversized(frame.oversize)
        return _decode(frame)

    def _check_stream(self, stream: int) -> None:
        if stream % 2 == 0:
            raise InvalidArgument("StreamID must be odd for client initiated streams")
        if stream <= self._last_stream:
            raise InvalidArgument(f"StreamID {stream} cannot be re-used: invalid argument")
        self._last_stream = stream


def _decode(frame: frames.Frame) -> Call:
    request = Request()
    try:
        request.ParseFromString(frame.data)
    except DecodeError as error:
        raise InvalidArgument(f"unmarshal request: {undecodable(error)}: invalid argument") from None
    metadata: dict[str, list[str]] = {}
    for pair in request.metadata:
        metadata.setdefault(pair.key.lower(), []).append(pair.value)
    return Call(
        frame.stream, request.service, request.method, request.payload, request.timeout_nano, metadata
    )
