"""The closed set of errors that cross a socket, and their gRPC codes.

Raise by meaning (``raise NotFound("container redis: not found")``) anywhere
below an interface; exactly one helper at each edge translates: gRPC and ttrpc
handlers by `code`, dockerd by its table of HTTP statuses. The names and
numbers are those of containerd's errdefs, which are those of gRPC.

Nothing here imports grpc: shims and the OCI runtime raise these too.
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """Base of all: an error of no known class travels as UNKNOWN, its text is all a client sees."""

    code: ClassVar[int] = 2
    hint: str = ""
    """What a person can do about it, where whoever raises it knows; it doesn't cross a socket."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""


class Canceled(Error):
    code = 1


class InvalidArgument(Error):
    code = 3


class DeadlineExceeded(Error):
    code = 4


class NotFound(Error):
    """Clients grep the words "not found": end the message with ``: not found``."""

    code = 5


class AlreadyExists(Error):
    """End the message with ``: already exists``."""

    code = 6


class PermissionDenied(Error):
    code = 7


class ResourceExhausted(Error):
    code = 8


class FailedPrecondition(Error):
    code = 9


class Aborted(Error):
    code = 10


class OutOfRange(Error):
    code = 11


class Unimplemented(Error):
    code = 12


class Internal(Error):
    code = 13


class Unavailable(Error):
    code = 14


class DataLoss(Error):
    code = 15


class Unauthenticated(Error):
    code = 16


BY_CODE: dict[int, type[Error]] = {
    kind.code: kind
    for kind in (
        Error,
        Canceled,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}


def undecodable(error: Exception) -> str:
    """What protobuf's DecodeError means, in the words of Go's library and without the names of ours."""
    if "UTF-8" in str(error):
        return "proto: string field contains invalid UTF-8"
    return "proto: cannot parse invalid wire-format data"


def from_code(code: int, message: str) -> Error:
    """The error a peer meant by a non-zero gRPC status code; unknown numbers become `Error`."""
    return BY_CODE.get(code, Error)(message)
