"""References in the words of the Engine API, and the names that dockerd gives records without one.

containerd stores full names (``docker.io/library/busybox:latest``), clients
see familiar ones (``busybox:latest``). A digest that a name had when it was
pulled or pushed is a record ``docker.io/library/busybox@sha256:...``; an image
that has no name is kept by ``moby-dangling@sha256:...``, the digest being its
manifest's.
"""

from __future__ import annotations

import re
from typing import Final

from longshore.api.errors import InvalidArgument
from longshore.client import references
from longshore.client.references import DEFAULT_TAG, DOCKER_HUB, Reference

__all__ = [
    "DANGLING",
    "DEFAULT_TAG",
    "DOCKER_HUB",
    "Reference",
    "familiar",
    "familiar_name",
    "parse",
    "parse_stored",
]

DANGLING: Final = "moby-dangling"
LONGEST: Final = 255  # characters of a repository's name
SHORT_ID: Final = 12

_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_SHORT = re.compile(r"[a-f0-9]+")


def parse(text: str) -> Reference:
    """What a client wrote, completed. Raises InvalidArgument in the original's words."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    try:
        found = references.parse(text)
    except InvalidArgument:
        raise InvalidArgument(_what_is_wrong(text)) from None
    if len(found.path) > LONGEST:
        raise InvalidArgument(f"repository name must not be more than {LONGEST} characters")
    return found


def _what_is_wrong(text: str) -> str:
    try:
        found = references.parse(text.lower())
    except InvalidArgument:
        return "invalid reference format"
    written = text.partition("@")[0].partition(":")[0]
    if found.domain != DOCKER_HUB:
        written = text.partition("/")[2].partition("@")[0].partition(":")[0]
    elif "/" not in written:
        written = f"library/{written}"
    return f"invalid reference format: repository name ({written}) must be lowercase"


def with_tag(repository: str, tag: str) -> Reference:
    """``fromImage`` and ``tag``, ``repo`` and ``tag``: the tag may be a digest."""
    found = parse(repository)
    if not tag:
        return found
    separator = "@" if ":" in tag else ":"
    return parse(f"{found.repository}{separator}{tag}")


def new_tag(repository: str, tag: str) -> Reference:
    """What an image is to be called. Raises InvalidArgument, also for names that would be taken for something else."""
    found = with_tag(repository, tag)
    if found.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    if familiar_name(found) == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return found


def has_tag(text: str) -> bool:
    """Whether tag or digest were written."""
    return "@" in text or ":" in text.rpartition("/")[2]


def parse_stored(name: str) -> Reference | None:
    """A record's name as a reference; None for what is none, as a dangling image's."""
    if is_dangling(name):
        return None
    try:
        found = references.parse(name)
    except InvalidArgument:
        return None
    return found if str(found) == name else None


def dangling(manifest: str) -> str:
    """The record that keeps the image with this manifest while it has no name."""
    return f"{DANGLING}@{manifest}"


def is_dangling(name: str) -> bool:
    return name.startswith(f"{DANGLING}@")


def familiar_name(reference: Reference) -> str:
    """The repository as people write it: ``busybox``, ``user/tool``, ``host:5000/tool``."""
    if reference.domain != DOCKER_HUB:
        return reference.repository
    first, slash, rest = reference.path.partition("/")
    return rest if slash and first == "library" and "/" not in rest else reference.path


def familiar(reference: Reference) -> str:
    """With tag and digest as they are."""
    tag = f":{reference.tag}" if reference.tag else ""
    digest = f"@{reference.digest}" if reference.digest else ""
    return f"{familiar_name(reference)}{tag}{digest}"


def short(image_id: str) -> str:
    """The first twelve digits of an ID."""
    return image_id.partition(":")[2][:SHORT_ID] or image_id[:SHORT_ID]


def is_id(text: str) -> bool:
    """Whether it can only be an image's ID, whole or with its algorithm."""
    return bool(_IDENTIFIER.fullmatch(text)) or text.startswith("sha256:")


def id_prefix(text: str) -> str:
    """ "sha256:" and the digits of what may be an ID or its beginning; "" if it can't be one."""
    digits = text.removeprefix("sha256:")
    return f"sha256:{digits}" if _SHORT.fullmatch(digits) and len(digits) <= 64 else ""
