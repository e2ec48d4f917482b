"""What takes how much space: GET /system/df."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from longshore.dockerd.engine import Engine
from longshore.dockerd.http import Version

KINDS: Final = ("container", "image", "volume", "build-cache")


async def of(engine: Engine, kinds: Collection[str], version: Version) -> dict[str, Any]:
    """The kinds that were not asked for are null."""
    document: dict[str, Any] = {
        "LayersSize": 0,
        "Images": None,
        "Containers": None,
        "Volumes": None,
        "BuildCache": None,
    }
    if "image" in kinds:
        document["Images"] = await _images(engine, version)
        document["LayersSize"] = await engine.images.layers_size()
    if "container" in kinds:
        document["Containers"] = await _containers(engine, version)
    if "volume" in kinds:
        document["Volumes"] = await _volumes(engine)
    if "build-cache" in kinds:
        document["BuildCache"] = []  # the classic builder's cache are images
    if version < (1, 42):
        document["BuilderSize"] = 0
    return document


async def _images(engine: Engine, version: Version) -> list[dict[str, Any]]:
    users: dict[str, int] = {}
    for container in engine.containers.all():
        users[container.image_id] = users.get(container.image_id, 0) + 1
    images = await engine.images.summaries({}, version, shared=True)
    return [image | {"Containers": users.get(image["Id"], 0)} for image in images]


async def _containers(engine: Engine, version: Version) -> list[dict[str, Any]]:
    listing = engine.containers.listing
    return [
        await listing.line(live, version, size=True) for live in await listing.select({}, everything=True)
    ]


async def _volumes(engine: Engine) -> list[dict[str, Any]]:
    return [
        engine.volumes.show(found.volume) | {"UsageData": {"Size": found.size, "RefCount": found.users}}
        for found in await engine.volumes.usage()
    ]
