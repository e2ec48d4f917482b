"""From a tag or digest to a descriptor: HEAD, and GET where HEAD doesn't say enough. And which tags there are."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import aiohttp

from longshore.registry.documents import (
    ACCEPT,
    DOCKER_SCHEMA1,
    LARGEST_DOCUMENT,
    Descriptor,
    digest_of,
    media_type_of,
)
from longshore.registry.errors import BadContent, RegistryError
from longshore.registry.fetch import Order, manifest_request, scope, together
from longshore.registry.hosts import Host
from longshore.registry.references import Reference, is_digest
from longshore.registry.transport import CONNECTION_ERRORS, Request, Transport, failure

MOST_PAGES = 1000  # of a list of tags


async def resolve(transport: Transport, order: Order, reference: Reference) -> Descriptor:
    """Ask each host that resolves, in order. Raises the last one's error, with the others' in it."""
    problems: list[RegistryError] = []
    for host in order.able("resolve"):
        try:
            found = await _at(transport, host, reference)
        except RegistryError as error:
            problems.append(error)
            continue
        order.prefer(host)
        return found
    raise together(reference.domain, "resolve", problems)


async def _at(transport: Transport, host: Host, reference: Reference) -> Descriptor:
    request = manifest_request("HEAD", host, reference, reference.object)
    request = request._replace(headers={"Accept": ACCEPT})
    # Some registries refuse HEAD; 404 they mean.
    async with transport.request(host, request, (200, 400, 403, 405, 406, 501)) as response:
        found = _from_headers(host, response, reference) if response.status == 200 else None
    if found is not None:
        return found
    async with transport.request(host, request._replace(method="GET"), (200,)) as response:
        data = await _body(host, response)
        return _from_body(host, response, data, reference)


def _from_headers(host: Host, response: aiohttp.ClientResponse, reference: Reference) -> Descriptor | None:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    digest = response.headers.get("Docker-Content-Digest", "")
    size = response.headers.get("Content-Length", "")
    generic = media_type in ("", "application/json", "application/octet-stream", "text/plain")
    if generic or media_type.startswith(DOCKER_SCHEMA1) or not is_digest(digest) or not size.isdigit():
        return None
    _check(host, reference, digest, int(size))
    return Descriptor(media_type, digest, int(size))


def _from_body(host: Host, response: aiohttp.ClientResponse, data: bytes, reference: Reference) -> Descriptor:
    algorithm = reference.digest.partition(":")[0] or "sha256"
    digest = digest_of(data, algorithm)
    promised = response.headers.get("Docker-Content-Digest", "")
    if is_digest(promised) and promised.startswith(f"{algorithm}:") and promised != digest:
        raise BadContent(f"{host.address}: what came as {promised} has the digest {digest}")
    _check(host, reference, digest, len(data))
    return Descriptor(media_type_of(response.headers.get("Content-Type", ""), data), digest, len(data))


def _check(host: Host, reference: Reference, digest: str, size: int) -> None:
    if reference.digest and digest != reference.digest:
        raise BadContent(f"{host.address}: asked for {reference.digest}, it offers {digest}")
    if not 0 < size <= LARGEST_DOCUMENT:
        raise BadContent(f"{host.address}: {reference.object} has {size} bytes: no manifest has that many")


async def _body(host: Host, response: aiohttp.ClientResponse) -> bytes:
    parts, total = [], 0
    try:
        while part := await response.content.read(1 << 16):
            parts.append(part)
            total += len(part)
            if total > LARGEST_DOCUMENT:
                raise BadContent(f"{host.address}: a manifest of more than {LARGEST_DOCUMENT} bytes")
    except CONNECTION_ERRORS as error:
        raise failure(host, error) from None
    return b"".join(parts)


async def tags(transport: Transport, order: Order, reference: Reference) -> list[str]:
    """Every tag, from the first host that lists them."""
    problems: list[RegistryError] = []
    for host in order.able("resolve"):
        try:
            return await _tags_at(transport, host, reference)
        except RegistryError as error:
            problems.append(error)
    raise together(reference.domain, "resolve", problems)


async def _tags_at(transport: Transport, host: Host, reference: Reference) -> list[str]:
    request = Request("GET", f"/{reference.path}/tags/list", (scope(reference, "pull"),))
    found: set[str] = set()
    for _ in range(MOST_PAGES):
        async with transport.request(host, request, (200,)) as response:
            data = await _body(host, response)
            following = response.links["next"]["url"] if "next" in response.links else None
        try:
            found.update(map(str, json.loads(data)["tags"] or ()))
        except (ValueError, KeyError, TypeError):
            raise BadContent(f"{host.address}: the tags of {reference.path} aren't a list") from None
        if following is None:
            break
        request = request._replace(query=tuple(parse_qsl(urlsplit(str(following)).query)))
    return sorted(found)
