"""Names of images. containerd stores a name as it is given; to complete ``busybox`` is the client's business."""

from __future__ import annotations

import re
from typing import NamedTuple

from longshore.registry.errors import InvalidReference

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"

_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


class Reference(NamedTuple):
    """``domain/path:tag@digest``; tag and digest may be empty."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.domain}/{self.path}{tag}{digest}"

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def object(self) -> str:
        """What a registry is asked for: the digest where there is one, else the tag."""
        return self.digest or self.tag


def parse(text: str) -> Reference:
    """Read a full or a short name: ``busybox`` is ``docker.io/library/busybox:latest``. Raises InvalidReference."""
    name, at, digest = text.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # no tag: the colon is a port's
        head, tag, colon = name, "", ""
    domain, path = _split_domain(head)
    checks = (
        (_DOMAIN, domain, "domain"),
        (_PATH, path, "repository"),
        (_TAG, tag if colon else DEFAULT_TAG, "tag"),
        (_DIGEST, digest if at else f"sha256:{0:064}", "digest"),
    )
    for pattern, part, what in checks:
        if pattern.fullmatch(part) is None:
            raise InvalidReference(f"invalid reference {text!r}: bad {what} {part!r}")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(domain, path, tag, digest)


def is_digest(text: str) -> bool:
    """Whether `text` is a digest of an algorithm that we can check."""
    return _DIGEST.fullmatch(text) is not None


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        first, rest = DOCKER_HUB, name
    if first == "index.docker.io":
        first = DOCKER_HUB
    if first == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest
