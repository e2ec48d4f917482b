"""Blobs and manifests to a repository."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from enum import Enum
from urllib.parse import urljoin

import aiohttp

from longshore.registry.documents import ACCEPT, Descriptor
from longshore.registry.errors import (
    BadConfiguration,
    BadContent,
    NotFound,
    RateLimited,
    RegistryError,
    Unavailable,
)
from longshore.registry.fetch import manifest_request, scope
from longshore.registry.hosts import Host
from longshore.registry.references import Reference
from longshore.registry.transport import Request, Transport

Open = Callable[[int], AsyncIterator[bytes]]
"""The bytes of a blob from an offset on; called again for every try."""


class Pushed(Enum):
    """How a blob came to be there."""

    EXISTS = "exists"
    MOUNTED = "mounted"
    UPLOADED = "uploaded"


class Pusher:
    def __init__(
        self, transport: Transport, hosts: Sequence[Host], reference: Reference, chunk_size: int
    ) -> None:
        self._transport, self._reference, self._chunk_size = transport, reference, chunk_size
        able = [host for host in hosts if "push" in host.capabilities]
        if not able:
            raise BadConfiguration(
                f"no host of {reference.domain} takes pushes",
                'its hosts.toml needs one with the capability "push"',
            )
        self._host = able[0]
        self._scopes = (scope(reference, "pull", "push"),)

    async def blob(self, blob: Descriptor, open: Open, *, mount_from: Sequence[str] = ()) -> Pushed:
        """Make the registry have `blob`. `mount_from`: repositories of the same registry that may have it."""
        if await self._has(f"/{self._reference.path}/blobs/{blob.digest}"):
            return Pushed.EXISTS
        for source in mount_from:
            if source != self._reference.path and await self._mount(blob, source):
                return Pushed.MOUNTED
        await self._upload(blob, open)
        return Pushed.UPLOADED

    async def manifest(self, found: Descriptor, data: bytes, name: str = "") -> Pushed:
        """Put a manifest or index under `name` (a tag), or under its digest alone."""
        if not name and await self._has(f"/{self._reference.path}/manifests/{found.digest}"):
            return Pushed.EXISTS
        request = manifest_request("PUT", self._host, self._reference, name or found.digest)._replace(
            scopes=self._scopes, headers={"Content-Type": found.media_type}, body=lambda: data, query=()
        )
        async with self._transport.request(self._host, request, (200, 201, 202)) as response:
            said = response.headers.get("Docker-Content-Digest", found.digest)
        if said != found.digest:
            raise BadContent(f"{self._host.address} stored {found.digest} as {said}")
        return Pushed.UPLOADED

    async def _has(self, path: str) -> bool:
        request = Request("HEAD", path, self._scopes, headers={"Accept": ACCEPT})
        async with self._transport.request(self._host, request, (200, 404)) as response:
            return response.status == 200

    async def _mount(self, blob: Descriptor, source: str) -> bool:
        """Ask for it to be taken over. A registry that won't has opened an upload instead, which we leave to it."""
        request = Request(
            "POST",
            f"/{self._reference.path}/blobs/uploads/",
            (*self._scopes, f"repository:{source}:pull"),
            (("mount", blob.digest), ("from", source)),
        )
        try:
            async with self._transport.request(self._host, request, (201, 202)) as response:
                mounted, location = response.status == 201, self._location(response)
        except RegistryError:
            return False
        if not mounted and location:
            await self._cancel(location)
        return mounted

    async def _cancel(self, location: str) -> None:
        try:
            request = Request("DELETE", location, self._scopes)
            async with self._transport.request(self._host, request, (200, 202, 204, 404, 405)):
                pass
        except RegistryError:
            pass  # it expires by itself

    async def _upload(self, blob: Descriptor, open: Open) -> None:
        """An upload that breaks can't go on (unless it is chunked): it is begun again."""
        policy = self._transport.policy
        for attempt in range(1, policy.attempts + 1):
            location = await self._begin()
            try:
                await self._send(blob, open, location)
                return
            except (Unavailable, RateLimited, NotFound):  # NotFound: the registry forgot it in a restart
                if attempt == policy.attempts:
                    raise
            await asyncio.sleep(policy.delay(attempt))

    async def _begin(self) -> str:
        request = Request("POST", f"/{self._reference.path}/blobs/uploads/", self._scopes)
        async with self._transport.request(self._host, request, (202,)) as response:
            location = self._location(response)
        if not location:
            raise BadContent(f"{self._host.address} opened an upload but does not say where")
        return location

    async def _send(self, blob: Descriptor, open: Open, location: str) -> None:
        if self._chunk_size and blob.size > self._chunk_size:
            await self._put(await self._chunks(blob, open, location), blob, None, 0)
        else:
            await self._put(location, blob, lambda: open(0), blob.size)

    async def _put(
        self, location: str, blob: Descriptor, body: Callable[[], AsyncIterator[bytes]] | None, size: int
    ) -> None:
        request = Request(
            "PUT",
            location,
            self._scopes,
            (("digest", blob.digest),),
            {"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            body or (lambda: b""),
        )
        async with self._transport.request(self._host, request, (201, 204), attempts=1):
            pass

    async def _chunks(self, blob: Descriptor, open: Open, location: str) -> str:
        """Send all of it in PATCHes; after a break go on where the registry says it stands."""
        position, failures = 0, 0
        while position < blob.size:
            before = position
            piece = await _take(open(position), min(self._chunk_size, blob.size - position))
            try:
                location, position = await self._patch(location, position, piece)
                problem: RegistryError | None = None
            except (Unavailable, RateLimited) as error:
                problem = error
            failures = 0 if position > before else failures + 1
            if failures >= self._transport.policy.attempts:
                raise problem or Unavailable(
                    f"{self._host.address}: the upload of {blob.digest} does not get on"
                )
            if failures:
                await asyncio.sleep(self._transport.policy.delay(failures))
                location, position = await self._standing(location)
        return location

    async def _patch(self, location: str, position: int, piece: bytes) -> tuple[str, int]:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{position}-{position + len(piece) - 1}",
        }
        request = Request("PATCH", location, self._scopes, headers=headers, body=lambda: piece)
        async with self._transport.request(self._host, request, (202, 416), attempts=1) as response:
            if response.status == 202:
                return self._location(response) or location, position + len(piece)
        return await self._standing(location)

    async def _standing(self, location: str) -> tuple[str, int]:
        """How far an upload has come. Raises NotFound when the registry has forgotten it."""
        request = Request("GET", location, self._scopes)
        async with self._transport.request(self._host, request, (204,)) as response:
            last = response.headers.get("Range", "0-0").removeprefix("bytes=").rpartition("-")[2]
            # "0-0" is what the specification has for "nothing yet" and for one byte; we start again then.
            position = int(last) + 1 if last.isdigit() and int(last) else 0
            return self._location(response) or location, position

    def _location(self, response: aiohttp.ClientResponse) -> str:
        target = response.headers.get("Location", "")
        return urljoin(str(response.url), target) if target else ""


async def _take(stream: AsyncIterator[bytes], size: int) -> bytes:
    """The first `size` bytes."""
    parts: list[bytes] = []
    have = 0
    async for part in stream:
        parts.append(part[: size - have])
        have += len(parts[-1])
        if have >= size:
            break
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
    return b"".join(parts)
