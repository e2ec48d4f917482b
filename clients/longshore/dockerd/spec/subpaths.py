"""A part of a volume as a mount (`volume-subpath`): bound on the host first, by a descriptor that nobody can divert.

A path would be looked up again by the runtime, and whoever shares the volume could put a link there in between.
"""

from __future__ import annotations

import posixpath

from longshore.api.errors import InvalidArgument
from longshore.dockerd.records import Container, MountPoint, MountSpec


def wanted(point: MountPoint) -> str:
    """ "" for the whole volume."""
    options = point.spec.volume_options if point.spec else None
    return options.subpath if options else ""


def check(mount: MountSpec, wrong: str) -> None:
    """Raises InvalidArgument."""
    path = mount.volume_options.subpath if mount.volume_options else ""
    if not path:
        return
    if not mount.source:
        raise InvalidArgument(f"{wrong}: must not set Subpath when using anonymous volumes")
    if path.startswith("/") or ".." in posixpath.normpath(path).split("/"):
        raise InvalidArgument(f"{wrong}: subpath must be a relative path within the volume")


def place(container: Container, point: MountPoint) -> str:
    """On the host, where it is mounted while the container runs."""
    return f"{container.folder}/mounts/{container.mounts.index(point)}"


def source(container: Container, point: MountPoint) -> str:
    """What the runtime binds."""
    return place(container, point) if wanted(point) else point.source
