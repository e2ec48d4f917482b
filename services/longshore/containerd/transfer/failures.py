"""What registries and archives answer, in the closed set of errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from longshore.api import errors
from longshore.registry import errors as problems


@contextmanager
def translated(deed: str) -> Iterator[None]:
    """A registry's failure inside becomes one of ours, after `deed` ("pull busybox")."""
    try:
        yield
    except problems.RegistryError as error:
        ending = ": not found" if isinstance(error, problems.NotFound) else ""
        raise errors.from_code(error.code, f"{deed}: {error.message}{ending}") from None
