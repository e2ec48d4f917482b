"""`Registry`: one connection pool, any number of repositories. `Repository`: resolve, fetch, push."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from longshore.registry import fetch, push, resolve
from longshore.registry.documents import (
    LARGEST_DOCUMENT,
    Descriptor,
    Document,
    check_data,
    read_document,
)
from longshore.registry.errors import BadContent
from longshore.registry.hosts import Host, hosts_for
from longshore.registry.options import DEFAULT_OPTIONS
from longshore.registry.options import Options as Options
from longshore.registry.references import Reference
from longshore.registry.references import parse as parse_reference
from longshore.registry.transport import Transport


class Registry:
    """``async with Registry() as registry: await registry.repository("busybox").resolve()``."""

    def __init__(self, options: Options = DEFAULT_OPTIONS) -> None:
        self.options = options
        self.transport = Transport(
            credentials=options.credentials,
            policy=options.policy,
            headers=options.headers,
            trace=options.trace,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)

    def repository(self, name: str | Reference) -> Repository:
        """Raises InvalidReference, BadConfiguration (a hosts.toml)."""
        reference = name if isinstance(name, Reference) else parse_reference(name)
        return Repository(self, reference, hosts_for(reference.domain, self.options.settings))


class Repository:
    """The images below one name. Errors are those of `longshore.registry.errors`."""

    def __init__(self, registry: Registry, reference: Reference, hosts: Sequence[Host]) -> None:
        self._registry = registry
        self._transport = registry.transport
        self.reference = reference
        self.hosts = hosts
        # What the last resolve asked first is asked first again; hosts that failed come last.
        self._order = fetch.Order(hosts)

    async def resolve(self) -> Descriptor:
        """What the reference's digest or tag is now: its media type, digest and size."""
        return await resolve.resolve(self._transport, self._order, self.reference)

    async def tags(self) -> list[str]:
        """The repository's tags, sorted."""
        return await resolve.tags(self._transport, self._order, self.reference)

    def open(self, blob: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob from `offset` on, in blocks of about a mebibyte.

        Breaks are mended: the stream goes on where it stood, at the same host
        or at the next. The number of bytes is checked; the digest is, when
        `offset` is 0: otherwise who has the first bytes must do it.
        """
        stream = fetch.stream(self._transport, self._order, self.reference, blob, offset)
        return stream if offset else fetch.verified(stream, blob, self.reference.domain)

    def open_unverified(self, blob: Descriptor, offset: int = 0) -> AsyncIterator[bytes]:
        """The same for those who check the digest themselves, as a content store does."""
        return fetch.stream(self._transport, self._order, self.reference, blob, offset)

    def distrust(self) -> None:
        """Ask another host first from now on: what the present one sent was not what it promised."""
        self._order.distrust()

    async def read(self, blob: Descriptor) -> bytes:
        """A small blob as a whole, checked. Raises BadContent, also for one that is too large to be a document."""
        if blob.size > LARGEST_DOCUMENT:
            raise BadContent(f"{blob.digest} has {blob.size} bytes: too large for a {blob.media_type}")
        attempts = len(self.hosts)
        while True:
            try:
                data = b"".join([block async for block in self.open_unverified(blob)])
                check_data(blob, data, self._order.current.address)
                return data
            except BadContent:
                attempts -= 1
                if attempts <= 0:
                    raise
                self.distrust()
                await asyncio.sleep(0)

    async def document(self, blob: Descriptor) -> Document:
        """A manifest or index, taken apart and checked."""
        return read_document(blob, await self.read(blob))

    def pusher(self) -> push.Pusher:
        """For pushing to this repository. Raises BadConfiguration when no host takes pushes."""
        return push.Pusher(self._transport, self.hosts, self.reference, self._registry.options.chunk_size)
