"""What registries and archives answer, in the closed set of errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from longshore.api import errors
from longshore.registry import errors as problems

_KINDS: Final[dict[type[problems.RegistryError], type[errors.Error]]] = {
    problems.InvalidReference: errors.InvalidArgument,
    problems.BadConfiguration: errors.InvalidArgument,
    problems.NotFound: errors.NotFound,
    problems.Unauthorized: errors.Unauthenticated,
    problems.Denied: errors.PermissionDenied,
    problems.RateLimited: errors.ResourceExhausted,
    problems.Unavailable: errors.Unavailable,
    problems.Untrusted: errors.FailedPrecondition,
    problems.BadContent: errors.DataLoss,
    problems.Refused: errors.FailedPrecondition,
}


@contextmanager
def translated(deed: str) -> Iterator[None]:
    """A registry's failure inside becomes one of ours, after `deed` ("pull busybox")."""
    try:
        yield
    except problems.RegistryError as error:
        ending = ": not found" if isinstance(error, problems.NotFound) else ""
        raise _KINDS.get(type(error), errors.Error)(f"{deed}: {error.message}{ending}") from None
