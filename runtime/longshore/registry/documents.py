"""Manifests and indexes as a registry serves them: media types, descriptors, and what a document must look like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from longshore.registry import shapes
from longshore.registry.errors import BadContent
from longshore.registry.platforms import Platform
from longshore.registry.references import is_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"

INDEXES = frozenset((OCI_INDEX, DOCKER_INDEX))
MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
DOCUMENTS = INDEXES | MANIFESTS

ACCEPT = ", ".join((DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX, "*/*"))

# The distribution specification lets registries refuse manifests above 4 MiB; containerd reads up to 8.
LARGEST_DOCUMENT = 8 << 20


class Descriptor(NamedTuple):
    """A blob as others refer to it. `size` is in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}

    @property
    def is_document(self) -> bool:
        return self.media_type in DOCUMENTS

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES

    @property
    def is_foreign(self) -> bool:
        """A layer that may not be distributed: registries hold at most its address."""
        return "nondistributable" in self.media_type or "foreign" in self.media_type


def descriptor(data: Any) -> Descriptor:
    """From its JSON. Raises BadContent."""
    if not isinstance(data, dict):
        raise BadContent(f"a descriptor that is no object: {data!r}")
    digest, size, media_type = data.get("digest"), data.get("size"), data.get("mediaType", "")
    if not isinstance(digest, str) or not is_digest(digest):
        raise BadContent(f"a descriptor with a bad digest: {digest!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadContent(f"descriptor of {digest} with a bad size: {size!r}")
    if not isinstance(media_type, str):
        raise BadContent(f"descriptor of {digest} with a bad media type: {media_type!r}")
    platform = data.get("platform")
    urls, annotations = data.get("urls"), data.get("annotations")
    return Descriptor(
        media_type,
        digest,
        size,
        Platform.of(platform) if isinstance(platform, dict) else None,
        tuple(url for url in urls if isinstance(url, str)) if isinstance(urls, list) else (),
        {str(key): str(value) for key, value in annotations.items()} if isinstance(annotations, dict) else {},
    )


class Document(NamedTuple):
    """A manifest or index. `children` come as garbage collection counts them: config, then layers; or manifests."""

    descriptor: Descriptor
    data: bytes
    content: dict[str, Any]
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]

    @property
    def children(self) -> tuple[Descriptor, ...]:
        return (*((self.config,) if self.config else ()), *self.layers, *self.manifests)


def read_document(found: Descriptor, data: bytes) -> Document:
    """Take a manifest or index apart.

    Raises BadContent for what isn't what its media type says. That includes
    documents which are both: two readers would see two different images in
    them (CVE-2021-41190).
    """
    try:
        content = shapes.parse(data)
    except ValueError as error:
        raise BadContent(f"{found.digest} is called {found.media_type} but: {error}") from None
    _check_kind(found, content)
    config = content.get("config")
    return Document(
        found,
        data,
        content,
        descriptor(config) if config and not found.is_index else None,
        _descriptors(found, content, "layers"),
        _descriptors(found, content, "manifests"),
    )


def _descriptors(found: Descriptor, content: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    listed = content.get(key) or []
    if not isinstance(listed, list):
        raise BadContent(f"{found.digest}: {key} is no list")
    return tuple(descriptor(entry) for entry in listed)


def _check_kind(found: Descriptor, content: dict[str, Any]) -> None:
    said = content.get("mediaType")
    if said and said != found.media_type:
        raise BadContent(f"{found.digest} is called {found.media_type} but calls itself {said}")
    if content.get("schemaVersion") == 1 or "fsLayers" in content:
        raise BadContent(
            f"{found.digest} is a schema 1 manifest, a format without checks that nobody should use",
            "ask the image's maker to push it again: every current tool writes schema 2 or OCI",
        )
    foreign = ("config", "layers") if found.is_index else ("manifests",)
    strange = [key for key in foreign if key in content]
    if strange:
        raise BadContent(f"{found.digest} is called {found.media_type} but has {', '.join(strange)}")


def media_type_of(content_type: str, data: bytes) -> str:
    """What a manifest of unclear type is: what it says of itself, else what it was served as."""
    served = content_type.partition(";")[0].strip().lower()
    if served in DOCUMENTS:
        return served
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return served
    said = content.get("mediaType") if isinstance(content, dict) else None
    if isinstance(said, str) and said:
        return said
    if isinstance(content, dict) and "manifests" in content:
        return OCI_INDEX
    return OCI_MANIFEST if isinstance(content, dict) and "layers" in content else served


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def check_data(found: Descriptor, data: bytes, source: str) -> None:
    """Size and digest of a whole blob. Raises BadContent that names its `source`."""
    if len(data) != found.size:
        raise BadContent(f"{source}: {found.digest} has {len(data)} bytes, not the {found.size} promised")
    actual = digest_of(data, found.digest.partition(":")[0])
    if actual != found.digest:
        raise BadContent(f"{source}: what came as {found.digest} has the digest {actual}")
