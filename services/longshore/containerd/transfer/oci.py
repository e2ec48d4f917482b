"""The image format as the daemon needs it: names of ingests, labels that keep children, chains of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from longshore.api.types.descriptor_pb2 import Descriptor as DescriptorMessage
from longshore.registry.documents import Descriptor, Document

CONFIG: Final = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"

NAME_ANNOTATION: Final = "io.containerd.image.name"
REF_ANNOTATION: Final = "org.opencontainers.image.ref.name"
SOURCE_LABEL: Final = "containerd.io/distribution.source"
UNCOMPRESSED_LABEL: Final = "containerd.io/uncompressed"
SNAPSHOT_LABEL: Final = "containerd.io/gc.ref.snapshot"

_KINDS: Final = {
    "index": ("image.index", "manifest.list"),
    "manifest": ("manifest.v1", "manifest.v2"),
    "config": ("config.v1", "container.image.v1"),
    "layer": ("layer", "rootfs.diff"),
}


def ingest_ref(blob: Descriptor) -> str:
    """The name that all clients give the ingest of a blob, so that two who fetch it meet."""
    kind = next(
        (kind for kind, marks in _KINDS.items() if any(mark in blob.media_type for mark in marks)), "unknown"
    )
    return f"{kind}-{blob.digest}"


def gc_labels(document: Document) -> dict[str, str]:
    """The labels of a manifest or index that keep what it refers to."""
    prefix = "containerd.io/gc.ref.content."
    labels = {f"{prefix}m.{place}": child.digest for place, child in enumerate(document.manifests)}
    labels |= {f"{prefix}l.{place}": layer.digest for place, layer in enumerate(document.layers)}
    if document.config is not None:
        labels[f"{prefix}config"] = document.config.digest
    return labels


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The name of each stack of layers, from the bottom."""
    chain: list[str] = []
    for diff_id in diff_ids:
        below = f"{chain[-1]} {diff_id}".encode() if chain else b""
        chain.append(f"sha256:{hashlib.sha256(below).hexdigest()}" if chain else diff_id)
    return chain


def message_of(blob: Descriptor) -> DescriptorMessage:
    """As the API has it."""
    return DescriptorMessage(
        media_type=blob.media_type, digest=blob.digest, size=blob.size, annotations=blob.annotations
    )


def of_message(blob: DescriptorMessage) -> Descriptor:
    return Descriptor(blob.media_type, blob.digest, blob.size, annotations=dict(blob.annotations))
