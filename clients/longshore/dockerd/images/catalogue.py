"""What containerd's records mean: manifests and configurations, read once (they are immutable by digest)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from longshore.api.errors import Error, InvalidArgument, NotFound
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import AsyncClient, oci
from longshore.client.images import Record
from longshore.dockerd.backend import times
from longshore.dockerd.images import names
from longshore.dockerd.images.names import Reference

SNAPSHOTTER: Final = "overlayfs"
OWNER: Final = "dockerd"
"""Whose pulls are whose."""
MANIFEST_LABEL: Final = "longshore.io/docker.manifest"
"""On a record whose target is an index: the digest of the manifest that was asked for."""

_AT_A_TIME: Final = 32  # calls to containerd under way while many images are read
_LARGEST: Final = 8 << 20  # bytes of a manifest or configuration
_DEEPEST: Final = 8  # indexes in indexes
_UNREADABLE: Final = (Error, KeyError, TypeError, ValueError, AttributeError, RecursionError)


class _History(msgspec.Struct):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _Config(msgspec.Struct):
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")


class _Rootfs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _Image(msgspec.Struct):
    """What a configuration must look like for us to read it: it is somebody else's, and may be anything."""

    rootfs: _Rootfs
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    created: str | None = None
    author: str | None = None
    comment: str | None = None
    config: _Config | None = None
    history: list[_History] | None = None


class Facts(NamedTuple):
    """One image for one platform; nothing in here ever changes."""

    id: str
    manifest: Descriptor
    config_blob: Descriptor
    config: dict[str, Any]
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    chain: tuple[str, ...]
    created_ns: int = 0
    """When it was made; 0 if it doesn't say."""

    @property
    def chain_id(self) -> str:
        return self.chain[-1] if self.chain else ""

    @property
    def platform(self) -> oci.Platform:
        get = self.config.get
        return oci.Platform(get("os") or "linux", get("architecture") or "", get("variant") or "")

    @property
    def labels(self) -> dict[str, str]:
        return (self.config.get("config") or {}).get("Labels") or {}

    @property
    def packed_size(self) -> int:
        """Bytes of the layers as they are stored."""
        return sum(layer.size for layer in self.layers)


@dataclass
class Entry:
    """An image and every record that leads to it."""

    facts: Facts
    records: list[Record] = field(default_factory=list)
    tags: list[Reference] = field(default_factory=list)
    digests: list[Reference] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def references(self) -> list[Reference]:
        return [*self.tags, *self.digests]

    @property
    def repo_tags(self) -> list[str]:
        return [names.familiar(tag) for tag in self.tags]

    @property
    def repo_digests(self) -> list[str]:
        return [names.familiar(digest) for digest in self.digests]


class Catalogue:
    """Reads images of one namespace. What containerd has is the truth: lists are asked for, contents are cached."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._facts: dict[tuple[str, str], Facts] = {}
        self._sizes: dict[str, int] = {}
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    async def entries(self) -> dict[str, Entry]:
        """Every image by ID. Records that lead to no image for this host are left out."""
        return await self.group([image.record for image in await self._client.images.list()])

    async def group(self, records: Iterable[Record]) -> dict[str, Entry]:
        listed = sorted(records, key=lambda record: record.name)
        found: dict[str, Entry] = {}
        self._forget(listed)
        unknown = [record for record in listed if _key(record) not in self._facts]
        read = dict(zip(map(_key, unknown), await asyncio.gather(*map(self.look, unknown)), strict=True))
        for record in listed:
            facts = self._facts.get(_key(record)) or read.get(_key(record))
            if facts is None:
                continue
            entry = found.setdefault(facts.id, Entry(facts))
            entry.records.append(record)
            reference = names.parse_stored(record.name)
            if reference is not None:
                (entry.digests if reference.digest else entry.tags).append(reference)
        return found

    def _forget(self, listed: Iterable[Record]) -> None:
        """Keep what is cached in proportion to what exists."""
        wanted = {_key(record) for record in listed}
        if len(self._facts) > 2 * len(wanted) + 64:
            self._facts = {key: facts for key, facts in self._facts.items() if key in wanted}

    async def look(self, record: Record) -> Facts | None:
        """The image that a record stands for; None if it isn't one, or not all of it is here."""
        known = self._facts.get(_key(record))
        if known is not None:
            return known
        async with self._slots:
            try:
                facts, lasting = await self._read(record)
            except _UNREADABLE:
                return None  # somebody else's record: an attestation, a chart, an index without our platform
        if lasting:
            self._facts[_key(record)] = facts
        return facts

    async def _read(self, record: Record) -> tuple[Facts, bool]:
        chosen = record.labels.get(MANIFEST_LABEL, "")
        if chosen and chosen != record.target.digest:
            info = await self._client.content.info(chosen)
            blob = Descriptor(digest=chosen, size=info.size)
            document = await self.document(blob)
            blob.media_type = document.get("mediaType") or oci.MANIFEST
            return await self._image(blob, document), True
        document = await self.document(record.target)
        if "manifests" not in document:
            return await self._image(record.target, document), True
        return await self._of_index(document), False

    async def _of_index(self, index: Mapping[str, Any], depth: int = 0) -> Facts:
        """The host's image out of an index, else the first that is here."""
        if depth > _DEEPEST:
            raise NotFound("an index below too many others: not found")
        host = oci.host_platform()
        listed = sorted(
            index["manifests"],
            key=lambda child: not (child.get("platform") and oci.matches(host, child["platform"])),
        )
        for child in listed:
            blob = oci.descriptor(child)
            try:
                document = await self.document(blob)
                if "manifests" in document:
                    return await self._of_index(document, depth + 1)
                return await self._image(blob, document)
            except _UNREADABLE:
                continue
        raise NotFound("no image of this index is here: not found")

    async def _image(self, manifest: Descriptor, document: Mapping[str, Any]) -> Facts:
        config_blob = oci.descriptor(document["config"])
        config = await self.document(config_blob)
        shape = msgspec.convert(config, _Image)
        diff_ids = tuple(shape.rootfs.diff_ids or ())
        layers = tuple(map(oci.descriptor, document.get("layers") or ()))
        if len(layers) != len(diff_ids):
            raise ValueError(f"{manifest.digest} is no image of a container")
        target = Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)
        chain = tuple(oci.chain_ids(diff_ids))
        return Facts(
            config_blob.digest,
            target,
            config_blob,
            config,
            layers,
            diff_ids,
            chain,
            moment(config.get("created")),
        )

    async def document(self, blob: Descriptor) -> dict[str, Any]:
        """A manifest, index or configuration. Raises NotFound, ValueError."""
        data = await self._client.content.read(blob.digest, limit=_LARGEST)
        found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        return found

    async def size(self, facts: Facts) -> int:
        """Bytes of the unpacked layers; of the packed ones, if it isn't unpacked."""
        try:
            return sum([await self.layer_size(chain_id) for chain_id in facts.chain])
        except NotFound:
            return facts.packed_size

    async def measure(self, entries: Iterable[Entry]) -> None:
        """Ask for the sizes of all their layers that aren't known, many at a time."""
        unknown = {chain for entry in entries for chain in entry.facts.chain if chain not in self._sizes}
        await asyncio.gather(*map(self.layer_size_or_0, unknown))

    async def layer_size(self, chain_id: str) -> int:
        """Bytes of one unpacked layer. Raises NotFound."""
        known = self._sizes.get(chain_id)
        if known is None:
            async with self._slots:
                known = (await self._client.snapshots(SNAPSHOTTER).usage(chain_id)).size
            self._sizes[chain_id] = known
        return known

    async def layer_size_or_0(self, chain_id: str) -> int:
        """The same, 0 for a layer that isn't unpacked."""
        try:
            return await self.layer_size(chain_id)
        except NotFound:
            return 0


def moment(text: object) -> int:
    """Nanoseconds of an RFC 3339 time as others write it; 0 for what is none, or lies before 1970."""
    if not isinstance(text, str):
        return 0
    try:
        return max(times.parse(text), 0)
    except InvalidArgument:
        return 0


def _key(record: Record) -> tuple[str, str]:
    return record.target.digest, record.labels.get(MANIFEST_LABEL, "")
