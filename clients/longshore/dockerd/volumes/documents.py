"""What is remembered of a volume, what clients see of it, and which names one may have."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Final

import msgspec

from longshore.api import errors
from longshore.dockerd.records import Document

DRIVER: Final = "local"
ANONYMOUS: Final = "com.docker.volume.anonymous"
"""The label of a volume that was made without a name; `prune` takes these alone unless told otherwise."""

_ALLOWED: Final = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME: Final = re.compile(_ALLOWED + "+")


class Volume(msgspec.Struct, kw_only=True):
    """Our record; kind "volumes" in `State`, key = name."""

    name: str
    driver: str = DRIVER
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    created_ns: int = 0

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS in (self.labels or {})


class CreateBody(Document):
    """POST /volumes/create."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None


def check_name(name: str) -> None:
    """Raises InvalidArgument. A checked name is one component of a path, and never "." or ".."."""
    if len(name) == 1:
        raise errors.InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _NAME.fullmatch(name):
        raise errors.InvalidArgument(
            f"create {name}: {json.dumps(name, ensure_ascii=False)} includes invalid characters for a local"
            f' volume name, only "{_ALLOWED}" are allowed. If you intended to pass a host directory,'
            " use absolute path"
        )


def shown(volume: Volume, mountpoint: str) -> dict[str, Any]:
    """The volume as the API describes it."""
    made = datetime.fromtimestamp(volume.created_ns // 1_000_000_000).astimezone()
    return {
        "CreatedAt": made.isoformat().replace("+00:00", "Z"),
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": mountpoint,
        "Name": volume.name,
        "Options": volume.options,
        "Scope": "local",
    }
