"""Where an image's blobs come from.

Importing an archive and pulling from a registry differ in this one interface:
`Images.fetch` stores what a source has, labels it against the garbage
collector, and records names. An archive's source is `longshore.client.archive`;
a registry's speaks the distribution protocol of `longshore.registry`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from longshore.api.types.descriptor_pb2 import Descriptor


class Named(NamedTuple):
    """A top-level image of a source and the name it goes by ("" when the source doesn't say)."""

    name: str
    target: Descriptor


class Source(Protocol):
    """A place that has images.

    A source that can only be read once, front to back (an archive on a pipe),
    stores blobs itself while it resolves; `open` is then asked for nothing
    that the store already has.
    """

    async def resolve(self) -> list[Named]:
        """What there is. Call it once, before `open`."""
        ...

    def open(self, blob: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob, from `offset` on."""
        ...
