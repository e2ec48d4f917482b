"""The OCI image model as far as a client needs it: media types, descriptors, children, platforms, chain ids."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from longshore.api.types.descriptor_pb2 import Descriptor

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = f"{LAYER}+gzip"
LAYER_ZSTD = f"{LAYER}+zstd"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEXES = frozenset((INDEX, DOCKER_INDEX))
MANIFESTS = frozenset((MANIFEST, DOCKER_MANIFEST))

NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Platform(NamedTuple):
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


def host_platform() -> Platform:
    machine = platform.machine()
    return Platform("linux", _MACHINES.get(machine, machine), "v7" if machine == "armv7l" else "")


def parse_platform(text: str) -> Platform:
    """``linux/arm64/v8``, or an architecture alone. Raises ValueError."""
    parts = [part.lower() for part in text.split("/")]
    if len(parts) == 1:
        parts = ["linux", *parts]
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise ValueError(f"bad platform {text!r}: want os/architecture[/variant]")
    architecture = _MACHINES.get(parts[1], parts[1])
    return Platform(parts[0], architecture, parts[2] if len(parts) == 3 else "")


def matches(wanted: Platform, found: Mapping[str, Any] | None) -> bool:
    """Whether a descriptor's platform serves; one without a platform serves every wish."""
    if not found or not found.get("architecture"):
        return True
    same = (found.get("os"), found.get("architecture")) == (wanted.os, wanted.architecture)
    variant = _variant(wanted.architecture, wanted.variant)
    return same and (not variant or _variant(wanted.architecture, found.get("variant", "")) == variant)


def _variant(architecture: str, variant: str) -> str:
    """arm64's v8 is its only one, and is usually left out."""
    return "" if (architecture, variant) == ("arm64", "v8") else variant


def descriptor(data: Mapping[str, Any]) -> Descriptor:
    """From its JSON."""
    return Descriptor(
        media_type=data.get("mediaType") or "",
        digest=data.get("digest") or "",
        size=data.get("size") or 0,
        annotations={key: value or "" for key, value in (data.get("annotations") or {}).items()},
    )


def children(document: Mapping[str, Any]) -> list[Descriptor]:
    """What a manifest or an index refers to: config before layers, as garbage collection labels count them."""
    if "manifests" in document:
        return [descriptor(entry) for entry in document["manifests"] or []]
    config = [document["config"]] if document.get("config") else []
    return [descriptor(entry) for entry in [*config, *(document.get("layers") or [])]]


def manifests(index: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of an index that are manifests or indexes; that of a checkpoint has others, too."""
    known = {"", *INDEXES, *MANIFESTS}
    return [entry for entry in index["manifests"] or [] if (entry.get("mediaType") or "") in known]


def is_foreign(blob: Descriptor) -> bool:
    """Whether it is a layer whose makers don't want it distributed."""
    return "nondistributable" in blob.media_type or "foreign" in blob.media_type


def gc_labels(document: Mapping[str, Any]) -> dict[str, str]:
    """The labels that keep a document's children alive: config, then l.0, l.1 ... or m.0, m.1 ..."""
    if "manifests" in document:
        return {
            f"containerd.io/gc.ref.content.m.{place}": child.digest
            for place, child in enumerate(children(document))
        }
    labels = {
        f"containerd.io/gc.ref.content.l.{place}": descriptor(layer).digest
        for place, layer in enumerate(document.get("layers") or [])
    }
    if document.get("config"):
        labels["containerd.io/gc.ref.content.config"] = descriptor(document["config"]).digest
    return labels


def diff_ids(config: Mapping[str, Any]) -> list[str]:
    """Of an image's configuration: the digests of its uncompressed layers, from the bottom."""
    return list((config.get("rootfs") or {}).get("diff_ids") or [])


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The name of each stack of layers, from the bottom: a layer alone, then hashes of (below, layer)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if not chain:
            chain.append(diff_id)
        else:
            chain.append(f"sha256:{hashlib.sha256(f'{chain[-1]} {diff_id}'.encode()).hexdigest()}")
    return chain
