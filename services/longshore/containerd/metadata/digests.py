"""Digest strings, checked as Go's go-digest does, with its words."""

from __future__ import annotations

import re
from typing import Final

from longshore.api.errors import InvalidArgument

_ANY: Final = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+", re.ASCII)
_HEX: Final = re.compile(r"[a-f0-9]+", re.ASCII)

# Algorithm -> length in hex digits.
ALGORITHMS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}


def validate(digest: str) -> None:
    """Raise InvalidArgument unless `digest` is ALGORITHM:HEX of an algorithm that we can compute."""
    algorithm, _, encoded = digest.partition(":")
    if _ANY.fullmatch(digest) is None:
        raise InvalidArgument("invalid checksum digest format: invalid argument")
    if algorithm not in ALGORITHMS:
        raise InvalidArgument("unsupported digest algorithm: invalid argument")
    if len(encoded) != ALGORITHMS[algorithm]:
        raise InvalidArgument("invalid checksum digest length: invalid argument")
    if _HEX.fullmatch(encoded) is None:
        raise InvalidArgument("invalid checksum digest format: invalid argument")
