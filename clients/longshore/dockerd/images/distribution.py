"""GET /distribution/{name}/json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from longshore.api import errors
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import oci
from longshore.client.remote import Remote, remote
from longshore.dockerd.images import registries
from longshore.dockerd.images.names import Reference
from longshore.dockerd.images.registries import Auth

if TYPE_CHECKING:
    from longshore.dockerd.images.store import Images

_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")


async def inspect(images: Images, reference: Reference, auth: Auth) -> dict[str, Any]:
    """The descriptor of a name and the platforms that it has. Errors are those of a pull."""
    options = registries.options(images.config, reference, auth, pull=True)
    try:
        async with remote(str(reference), options) as door:
            target = await door.resolve()
            document = await _document(door, target)
            if "manifests" in document:
                platforms = [entry["platform"] for entry in document["manifests"] if entry.get("platform")]
            else:
                platforms = [await _document(door, oci.descriptor(document["config"]))]
    except errors.Error as error:
        raise registries.pull_error(error, reference) from None
    return {
        "Descriptor": {"mediaType": target.media_type, "digest": target.digest, "size": target.size},
        "Platforms": [{name: found[name] for name in _PLATFORM if found.get(name)} for found in platforms],
    }


async def _document(door: Remote, blob: Descriptor) -> dict[str, Any]:
    data = b"".join([block async for block in door.fetch(blob)])
    return msgspec.json.decode(data, type=dict[str, Any])
