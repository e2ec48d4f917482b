"""Removing images: what is untagged, what is deleted, and what forbids it. Rules only; `store` acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from longshore.dockerd.errors import Conflict
from longshore.dockerd.images import names
from longshore.dockerd.images.catalogue import Entry
from longshore.dockerd.images.names import Reference
from longshore.dockerd.records import Container

RUNNING = frozenset(("running", "paused", "restarting"))


class Obstacle(NamedTuple):
    """Why an image can't be deleted. A hard one can't be forced; `used` means by a container."""

    reason: str
    hard: bool
    used: bool

    def error(self, image_id: str) -> Conflict:
        how = "cannot be forced" if self.hard else "must be forced"
        return Conflict(f"conflict: unable to delete {names.short(image_id)} ({how}) - {self.reason}")


def is_single(references: Sequence[Reference]) -> bool:
    """Whether they are at most one tag, and digests of its repository only."""
    tags = [reference for reference in references if not reference.digest]
    repositories = {reference.repository for reference in references}
    return len(references) <= 1 or (len(tags) <= 1 and len(repositories) == 1)


def user_of(image_id: str, containers: Sequence[Container]) -> Container | None:
    """Some container made of it."""
    return next((c for c in containers if c.image_id == image_id), None)


def reference_in_use(asked: str, image_id: str, container: Container) -> Conflict:
    """Its last name can't go while a container would be left with a nameless image."""
    return Conflict(
        f'conflict: unable to remove repository reference "{asked}" (must force) - container '
        f"{names.short(container.id)} is using its referenced image {names.short(image_id)}"
    )


def obstacle(
    entry: Entry,
    containers: Sequence[Container],
    *,
    has_children: bool,
    soft: bool,
    ignore_references: bool = False,
) -> Obstacle | None:
    """What forbids deleting it; with `soft` also what force would overcome."""
    users = [c for c in containers if c.image_id == entry.id]
    if has_children:
        return Obstacle("image has dependent child images", hard=True, used=False)
    running = next((c for c in users if c.state.status in RUNNING), None)
    if running is not None:
        reason = f"image is being used by running container {names.short(running.id)}"
        return Obstacle(reason, hard=True, used=True)
    if not soft:
        return None
    if entry.references and not ignore_references:
        return Obstacle("image is referenced in multiple repositories", hard=False, used=False)
    if users:
        reason = f"image is being used by stopped container {names.short(users[0].id)}"
        return Obstacle(reason, hard=False, used=True)
    return None


def orphaned(reference: Reference, left: Sequence[Reference]) -> list[Reference]:
    """Digests that go with the last tag of their repository."""
    same = [other for other in left if other.repository == reference.repository]
    if reference.digest or any(not other.digest for other in same):
        return []
    return same
