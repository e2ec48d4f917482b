"""From errors to HTTP: the one table of statuses.

Everything below a route raises `longshore.api.errors` (the SDK does too), so
an error of containerd's and one of ours become the same answer. Two outcomes
of the Engine API have no gRPC code and are raised as the classes below.
"""

from __future__ import annotations

from typing import ClassVar

from longshore.api import errors


class NotModified(errors.Error):
    """304: the container already is what was asked of it. The answer has no body."""


class ServerError(errors.Error):
    """500 on purpose, where the original answers so and clients read the words."""


class Conflict(errors.FailedPrecondition):
    """409: the object's state forbids it (the container runs, the name is taken, the network is in use)."""


_STATUSES: tuple[tuple[type[errors.Error], int], ...] = (
    (NotModified, 304),
    (ServerError, 500),
    (errors.InvalidArgument, 400),
    (errors.OutOfRange, 400),
    (errors.Unauthenticated, 401),
    (errors.PermissionDenied, 403),
    (errors.NotFound, 404),
    (errors.AlreadyExists, 409),
    (errors.FailedPrecondition, 409),
    (errors.Aborted, 409),
    (errors.Unimplemented, 501),
    (errors.Unavailable, 503),
    (errors.DeadlineExceeded, 504),
)


class HTTPStatus:
    """Namespace of the look-up; `of` never fails."""

    default: ClassVar[int] = 500

    @classmethod
    def of(cls, error: BaseException) -> int:
        """The status that a client sees for `error`."""
        for kind, status in _STATUSES:
            if isinstance(error, kind):
                return status
        return cls.default
