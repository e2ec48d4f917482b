"""Names of images, with the errors of the SDK; the rules are `longshore.registry.references`."""

from __future__ import annotations

from longshore.api.errors import InvalidArgument
from longshore.registry import references
from longshore.registry.errors import InvalidReference
from longshore.registry.references import DEFAULT_TAG, DOCKER_HUB, Reference

__all__ = ["DEFAULT_TAG", "DOCKER_HUB", "Reference", "normalize", "parse"]


def parse(text: str) -> Reference:
    """Read a full or a short name: ``busybox`` is ``docker.io/library/busybox:latest``. Raises InvalidArgument."""
    try:
        return references.parse(text)
    except InvalidReference as error:
        raise InvalidArgument(f"{error.message}: invalid argument") from None


def normalize(text: str) -> str:
    """The full name. Raises InvalidArgument."""
    return str(parse(text))
