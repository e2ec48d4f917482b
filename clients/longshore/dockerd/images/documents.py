"""What the API says about an image: summaries, inspect, history. Data in, documents out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from longshore.dockerd.backend import times
from longshore.dockerd.http import Version
from longshore.dockerd.images.catalogue import SNAPSHOTTER, Entry, Facts, moment

# Since these versions a member is gone or looks otherwise.
NO_PLACEHOLDERS: Final[Version] = (1, 43)
NO_VIRTUAL_SIZE: Final[Version] = (1, 44)
NO_CONTAINER: Final[Version] = (1, 45)
SHORT_CONFIG: Final[Version] = (1, 50)

_NOBODY: Final = ["<none>:<none>"], ["<none>@<none>"]

_CONFIG: Final[Mapping[str, Any]] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


class Extras(NamedTuple):
    """What isn't in the image itself. `size` is in bytes."""

    size: int
    parent: str = ""
    tagged_ns: int = 0
    containers: int = -1
    shared: int = -1


def full_config(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A configuration with every member that clients expect."""
    return None if config is None else {**_CONFIG, **config}


def summary(entry: Entry, extras: Extras, version: Version) -> dict[str, Any]:
    """One element of GET /images/json."""
    tags, digests = entry.repo_tags, entry.repo_digests
    if not tags and not digests and version < NO_PLACEHOLDERS:
        tags, digests = _NOBODY
    found: dict[str, Any] = {
        "Containers": extras.containers,
        "Created": entry.facts.created_ns // times.SECOND,
        "Id": entry.id,
        "Labels": entry.facts.labels or None,
        "ParentId": extras.parent,
        "RepoDigests": digests,
        "RepoTags": tags,
        "SharedSize": extras.shared,
        "Size": extras.size,
    }
    if version < NO_VIRTUAL_SIZE:
        found["VirtualSize"] = extras.size
    return found


def inspect(entry: Entry, extras: Extras, version: Version) -> dict[str, Any]:
    """GET /images/{name}/json."""
    config = entry.facts.config
    found: dict[str, Any] = {
        "Id": entry.id,
        "RepoTags": entry.repo_tags,
        "RepoDigests": entry.repo_digests,
        "Parent": extras.parent,
        "Comment": _comment(config),
        "Created": config.get("created") or times.NEVER,
        "Container": config.get("container") or "",
        "ContainerConfig": full_config(config.get("container_config") or {}),
        "DockerVersion": config.get("docker_version") or "",
        "Author": config.get("author") or "",
        "Config": full_config(config.get("config")),
        "Architecture": config.get("architecture") or "",
        "Os": config.get("os") or "linux",
        "Size": extras.size,
        "VirtualSize": extras.size,
        "GraphDriver": {"Data": None, "Name": SNAPSHOTTER},
        "RootFS": _rootfs(entry.facts.diff_ids),
        "Metadata": {"LastTagTime": times.rfc3339(extras.tagged_ns)},
    }
    found |= {
        ours: config[theirs]
        for ours, theirs in (("Variant", "variant"), ("OsVersion", "os.version"))
        if config.get(theirs)
    }
    if version >= NO_VIRTUAL_SIZE:
        del found["VirtualSize"]
    if version >= NO_CONTAINER:
        # ContainerConfig stays, empty: docker-compose 1.29 takes the newest version and can't recreate without it.
        del found["Container"]
    return found


def _comment(config: Mapping[str, Any]) -> str:
    """The image's, else that of what was done last."""
    if config.get("comment"):
        return str(config["comment"])
    history = config.get("history") or []
    return str(history[-1].get("comment") or "") if history else ""


def _rootfs(diff_ids: Sequence[str]) -> dict[str, Any]:
    return {"Type": "layers", **({"Layers": list(diff_ids)} if diff_ids else {})}


def history(facts: Facts, sizes: Sequence[int], ancestors: Sequence[Entry]) -> list[dict[str, Any]]:
    """GET /images/{name}/history, newest first. `sizes` are the layers', `ancestors` the image, its parent, ..."""
    left = iter(sizes)
    steps = [
        {
            "Comment": step.get("comment") or "",
            "Created": moment(step.get("created")) // times.SECOND,
            "CreatedBy": step.get("created_by") or "",
            "Id": "<missing>",
            "Size": 0 if step.get("empty_layer") else next(left, 0),
            "Tags": None,
        }
        for step in facts.config.get("history") or []
    ]
    steps.reverse()
    for step, ancestor in zip(steps, ancestors, strict=False):
        step["Id"] = ancestor.id
        step["Tags"] = ancestor.repo_tags or None
    return steps


def event_attributes(facts: Facts | None, name: str) -> dict[str, str]:
    """The labels of an image, and by which name it was meant."""
    return {**(facts.labels if facts else {}), "name": name}
