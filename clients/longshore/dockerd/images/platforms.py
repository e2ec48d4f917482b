"""The `platform` parameters: an image is here for one platform, so they only say whether that is the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from longshore.api.errors import InvalidArgument, NotFound
from longshore.client import oci
from longshore.dockerd.images import names

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images


_SYSTEMS = frozenset(("linux", "windows", "darwin", "freebsd"))


def parse(text: str) -> oci.Platform | None:
    """``linux/arm64/v8``, an architecture or a system alone; None for "". Raises InvalidArgument."""
    if text.lower() in _SYSTEMS:
        return oci.Platform(text.lower(), oci.host_platform().architecture)
    try:
        return oci.parse_platform(text) if text else None
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def decode(text: str) -> oci.Platform | None:
    """A JSON object, as the API has it since 1.48; None for "". Raises InvalidArgument."""
    if not text:
        return None
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"failed to parse platform: {error}") from None
    if not found.get("os") or not found.get("architecture"):
        raise InvalidArgument("both OS and Architecture must be provided")
    return oci.Platform(found["os"], found["architecture"], found.get("variant") or "")


async def check(images: Images, reference: str, wanted: oci.Platform | None) -> None:
    """Raises NotFound where the image is missing, or is another platform's: clients pull it then."""
    if wanted is None:
        return
    found = (await images.find(reference)).facts.platform
    name = reference if names.id_prefix(reference) else names.familiar(names.parse(reference))
    compare(name, wanted, found)


def compare(name: str, wanted: oci.Platform, found: oci.Platform) -> None:
    """Raises NotFound unless an image for `found` serves."""
    if not oci.matches(wanted, found._asdict()):
        raise NotFound(
            f"image with reference {name} was found but does not match the specified platform:"
            f" wanted {wanted}, actual: {found}"
        )
