"""Which media types are layers, and how they are compressed."""

from __future__ import annotations

from typing import Final

from longshore.api import errors

LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP: Final = LAYER + "+gzip"
LAYER_ZSTD: Final = LAYER + "+zstd"

_MADE: Final = {LAYER: "none", LAYER_GZIP: "gzip", LAYER_ZSTD: "zstd"}

# Builders have labelled plain tars as gzip and the other way round, Docker's without suffix can be anything:
# all but OCI's plain tar is decided by the first bytes, as containerd does.
_OCI: Final = (LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar")
_DOCKER: Final = (
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_READ: Final = (
    dict.fromkeys(_OCI, "none")
    | {f"{base}+{suffix}": "auto" for base in _OCI for suffix in ("gzip", "zstd")}
    | dict.fromkeys(_DOCKER, "auto")
    | {f"{base}.{suffix}": "auto" for base in _DOCKER for suffix in ("gzip", "zstd")}
)


def is_layer(media_type: str) -> bool:
    """Whether we can read it without anybody's help."""
    return media_type in _READ


def compression_of_layer(media_type: str) -> str:
    """How to read a layer: none or auto. Raises Error (Unknown) for what isn't a layer that we can read."""
    compression = _READ.get(media_type)
    if compression is None:
        raise errors.Error(f"failed to get stream processor for {media_type}: no processor for media-type")
    return compression


def compression_to_make(media_type: str) -> str:
    """How to write a layer: none, gzip or zstd. Raises Unimplemented for anything else."""
    compression = _MADE.get(media_type)
    if compression is None:
        raise errors.Unimplemented(f"unsupported diff media type: {media_type}: not implemented")
    return compression
