"""Blobs as streams that survive what happens on the way.

A stream has a position. Whatever breaks it (a dropped or stalled connection,
an overloaded host), the next try asks for the rest (Range) at the same host
with a growing delay, and after `Policy.attempts` tries without progress at the
next host. What a host sends is never more than was promised: the first byte
too many ends it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence

import aiohttp

from longshore.registry.documents import Descriptor
from longshore.registry.errors import (
    BadConfiguration,
    BadContent,
    RegistryError,
    Unavailable,
)
from longshore.registry.hosts import Host, is_mirror
from longshore.registry.policy import Policy
from longshore.registry.references import Reference
from longshore.registry.transport import CONNECTION_ERRORS, Request, Transport, failure

BLOCK = 1 << 20  # bytes: a message to a content store
LITTLE = 64 << 10  # bytes: a try that brings less counts as one without progress


class Order:
    """Hosts in the order in which to ask them."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = list(hosts)
        self.current = self._hosts[0]

    def able(self, capability: str) -> Iterator[Host]:
        return iter([host for host in self._hosts if capability in host.capabilities])

    def prefer(self, host: Host) -> None:
        """This one has just answered well."""
        self.current = host
        self._hosts.sort(key=lambda other: other is not host)

    def fail(self, host: Host) -> None:
        """Ask this one last."""
        self._hosts.sort(key=lambda other: other is host)

    def distrust(self) -> None:
        self.fail(self.current)
        self.current = self._hosts[0]


def together(domain: str, capability: str, problems: Sequence[RegistryError]) -> RegistryError:
    """One error for all hosts: the last one's, as the registry itself comes last, with what was wrong before."""
    if not problems:
        return BadConfiguration(
            f"no host of {domain} has the capability {capability!r}", "see its hosts.toml"
        )
    last = problems[-1]
    before = "".join(f"; before that, {problem.message}" for problem in problems[:-1])
    return type(last)(last.message + before, last.hint, last.said)


def scope(reference: Reference, *actions: str) -> str:
    return f"repository:{reference.path}:{','.join(actions)}"


def manifest_request(method: str, host: Host, reference: Reference, name: str) -> Request:
    return Request(
        method, f"/{reference.path}/manifests/{name}", (scope(reference, "pull"),), _mirrored(host, reference)
    )


def _mirrored(host: Host, reference: Reference) -> tuple[tuple[str, str], ...]:
    return (("ns", reference.domain),) if is_mirror(host, reference.domain) else ()


def _blob_request(host: Host, reference: Reference, blob: Descriptor, offset: int) -> Request:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if blob.is_document:
        request = manifest_request("GET", host, reference, blob.digest)
        return request._replace(headers={"Accept": f"{blob.media_type}, */*", **headers})
    return Request(
        "GET",
        f"/{reference.path}/blobs/{blob.digest}",
        (scope(reference, "pull"),),
        _mirrored(host, reference),
        headers,
    )


async def stream(
    transport: Transport, order: Order, reference: Reference, blob: Descriptor, offset: int
) -> AsyncIterator[bytes]:
    """The bytes of `blob` from `offset` on, exactly as many as it has. Raises RegistryError when no host goes on."""
    position = offset
    problems: list[RegistryError] = []
    for host in order.able("pull"):
        patience = _Patience(transport)
        while True:
            try:
                async for block in _from(transport, host, reference, blob, position):
                    order.current = host
                    position += len(block)
                    patience.progress(len(block))
                    yield block
                if position == blob.size:
                    return
                said = f"{host.address}: {blob.digest} ended after {position} of {blob.size} bytes"
                problem: RegistryError = Unavailable(said, "try again: what came is kept")
            except _Broken as broken:
                problem = broken.problem
            except RegistryError as error:  # the transport has tried again as often as made sense
                problem = error
                break
            if not await patience.again():
                break
        order.fail(host)
        problems.append(problem)
    raise together(reference.domain, "pull", problems)


class _Patience:
    """Counts the breaks of a stream since it last got somewhere."""

    def __init__(self, transport: Transport) -> None:
        self._policy = transport.policy
        self._failures = 0
        self._came = 0

    def progress(self, count: int) -> None:
        self._came += count

    async def again(self) -> bool:
        """Wait before another try; false when there were enough."""
        if self._came >= LITTLE:
            self._failures = 0
        self._came = 0
        self._failures += 1
        if self._failures >= self._policy.attempts:
            return False
        await asyncio.sleep(self._policy.delay(self._failures))
        return True


class _Broken(Exception):
    """A stream that ended before its time."""

    def __init__(self, problem: RegistryError) -> None:
        super().__init__(problem)
        self.problem = problem


async def _from(
    transport: Transport, host: Host, reference: Reference, blob: Descriptor, position: int
) -> AsyncIterator[bytes]:
    """One response's bytes from `position` on. Raises _Broken for what another request may mend."""
    request = _blob_request(host, reference, blob, position)
    async with transport.request(host, request, (200, 206)) as response:
        skip = _check_headers(host, response, blob, position)
        try:
            async for block in _blocks(response, transport.policy, host):
                if skip:
                    block, skip = block[skip:], max(skip - len(block), 0)
                position += len(block)
                if position > blob.size:
                    raise BadContent(
                        f"{host.address}: {blob.digest} has more than the {blob.size} bytes promised"
                    )
                if block:
                    yield block
        except CONNECTION_ERRORS as error:
            raise _Broken(failure(host, error)) from None


def _check_headers(host: Host, response: aiohttp.ClientResponse, blob: Descriptor, position: int) -> int:
    """How many bytes to drop because the host ignored Range. Raises BadContent when it announces another size."""
    if response.status == 206:
        start, total = _content_range(response.headers.get("Content-Range", ""))
        if start != position or total not in (None, blob.size):
            got = response.headers.get("Content-Range", "nothing")
            raise BadContent(
                f"{host.address}: asked for {blob.digest} from {position} of {blob.size}, got {got}"
            )
        return 0
    length = response.content_length
    if length is not None and length != blob.size:
        raise BadContent(
            f"{host.address}: {blob.digest} has {length} bytes there, not the {blob.size} promised"
        )
    return position


def _content_range(value: str) -> tuple[int, int | None]:
    """(first byte, whole size) of ``bytes 5-9/10``; (-1, None) when it can't be read."""
    unit, _, rest = value.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        return -1, None
    return int(start), int(total) if total.isdigit() else None


async def _blocks(response: aiohttp.ClientResponse, policy: Policy, host: Host) -> AsyncIterator[bytes]:
    """Blocks of about a mebibyte, or of what came within the stall time. Raises _Broken if that was too little."""
    while True:
        parts: list[bytes] = []
        total = 0
        ended = False
        broken: BaseException | None = None
        try:
            async with asyncio.timeout(policy.stall_after):
                while total < BLOCK:
                    part = await response.content.readany()
                    if not part:
                        ended = True
                        break
                    parts.append(part)
                    total += len(part)
        except TimeoutError:
            if total < policy.stall_bytes:
                said = f"{host.address}: stalled, {total} bytes in {policy.stall_after:g} s"
                raise _Broken(Unavailable(said, "try again: what came is kept")) from None
        except CONNECTION_ERRORS as error:
            broken = error
        if parts:
            yield b"".join(parts) if len(parts) > 1 else parts[0]
        if broken is not None:
            raise broken
        if ended:
            return


async def verified(stream: AsyncIterator[bytes], blob: Descriptor, source: str) -> AsyncIterator[bytes]:
    """The same stream; its last block is given out only if all of it has the digest. Raises BadContent."""
    algorithm, _, expected = blob.digest.partition(":")
    hasher = hashlib.new(algorithm)
    held = b""
    async for block in stream:
        if held:
            yield held
        hasher.update(block)
        held = block
    if hasher.hexdigest() != expected:
        raise BadContent(
            f"{source}: what came as {blob.digest} has the digest {algorithm}:{hasher.hexdigest()}"
        )
    if held:
        yield held
