"""Containers as a list: which of them, and a line about each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from longshore.api.errors import InvalidArgument, NotFound
from longshore.dockerd import decoding
from longshore.dockerd.backend import describe
from longshore.dockerd.backend.archive import Archives
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.backend.times import ago
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.records import Container, ContainerState

_FILTER_WORDS: Final = """
    ancestor before exited expose health id is-task isolation label name network publish since status volume
"""
FILTERS: Final = frozenset(_FILTER_WORDS.split())
STATUSES: Final = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
HEALTHS: Final = ("none", "starting", "healthy", "unhealthy")

Test = Callable[[Live], bool]
Filters = Mapping[str, Sequence[str]]


class Listing:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def select(self, filters: Filters, everything: bool = False, limit: int = 0) -> list[Live]:
        """Newest first. Without `everything` only those that run, unless a filter or limit says otherwise.

        Raises InvalidArgument for a value that can't be, NotFound for a container of before or since.
        """
        tests = [await self._test(name, values) for name, values in filters.items() if values]
        if not (everything or limit > 0 or {"status", "exited", "before", "since"} & set(filters)):
            tests.append(lambda live: live.alive)
        found = [live for live in self._parts.registry if all(test(live) for test in tests)]
        found.sort(key=lambda live: (live.record.created_ns, live.id), reverse=True)
        return found[:limit] if limit > 0 else found

    async def _test(self, name: str, values: Sequence[str]) -> Test:
        if name == "ancestor":
            return await self._ancestors(values)
        if name in ("before", "since"):
            return self._relative(name, values)
        if name == "network":
            return self._in_networks(values)
        return _TESTS[name](values)

    def _relative(self, name: str, values: Sequence[str]) -> Test:
        marks = [self._parts.registry.find(value).record.created_ns for value in values]
        if name == "before":
            return lambda live: live.record.created_ns < min(marks)
        return lambda live: live.record.created_ns > max(marks)

    def _in_networks(self, values: Sequence[str]) -> Test:
        return lambda live: any(
            value == name or (found.network_id and found.network_id.startswith(value))
            for name, found in live.record.networks.items()
            for value in values
        )

    async def _ancestors(self, values: Sequence[str]) -> Test:
        """Of an image, or of one made of it: an image that begins with the same layers."""
        wanted = [found for value in values if (found := await self._image(value)) is not None]
        layers = {image.id: _layers(image.config) for image in wanted}
        for image_id in {live.record.image_id for live in self._parts.registry} - set(layers):
            found = await self._image(image_id)
            layers[image_id] = _layers(found.config) if found is not None else []

        def test(live: Live) -> bool:
            own = layers.get(live.record.image_id, [])
            return live.record.image_ref in values or any(
                image.id == live.record.image_id
                or (bool(layers[image.id]) and own[: len(layers[image.id])] == layers[image.id])
                for image in wanted
            )

        return test

    async def _image(self, reference: str) -> ImageInfo | None:
        try:
            return self._parts.images.info(await self._parts.images.find(reference))
        except (InvalidArgument, NotFound):
            return None

    async def line(self, live: Live, version: tuple[int, int], size: bool = False) -> dict[str, Any]:
        """One container as GET /containers/json has it."""
        record = live.record
        document: dict[str, Any] = {
            "Id": record.id,
            "Names": [f"/{record.name}", *self._parts.registry.aliases(live)],
            "Image": record.image_ref or record.config.image,
            "ImageID": record.image_id,
            "Command": " ".join([record.path, *map(_quoted, record.args)]),
            "Created": record.created_ns // 1_000_000_000,
            "Ports": ports(record),
            "Labels": record.config.labels or {},
            "State": record.state.status,
            "Status": status(record.state),
            "HostConfig": {"NetworkMode": record.host_config.network_mode},
            "NetworkSettings": {"Networks": describe.endpoints(record, version)},
            "Mounts": [describe.mount(point) for point in record.mounts],
        }
        if size:
            document |= {key: value for key, value in (await self.sizes(live)).items() if value}
        return document

    async def sizes(self, live: Live) -> dict[str, int]:
        """Bytes that the container wrote, and of all that it sees."""
        snapshots = self._parts.snapshots(live)
        own = await Archives(self._parts).size(live)
        total, key = own, (await snapshots.stat(live.id)).parent
        while key:
            total += (await snapshots.usage(key)).size
            key = (await snapshots.stat(key)).parent
        return {"SizeRw": own, "SizeRootFs": total}


def _quoted(word: str) -> str:
    """As the original joins a command: words with blanks are quoted."""
    return f"'{word}'" if " " in word else word


def _layers(config: Mapping[str, Any]) -> list[str]:
    return list((config.get("rootfs") or {}).get("diff_ids") or ())


# -- filters


def _any(test: Callable[[Live, str], bool]) -> Callable[[Sequence[str]], Test]:
    return lambda values: lambda live: any(test(live, value) for value in values)


def _all(test: Callable[[Live, str], bool]) -> Callable[[Sequence[str]], Test]:
    return lambda values: lambda live: all(test(live, value) for value in values)


def _named(live: Live, value: str) -> bool:
    import re

    try:
        return (
            re.search(value, f"/{live.record.name}") is not None
            or re.search(value, live.record.name) is not None
        )
    except re.error:
        return value in live.record.name


def _labelled(live: Live, value: str) -> bool:
    key, found, wanted = value.partition("=")
    labels = live.record.config.labels or {}
    return key in labels and (not found or labels[key] == wanted)


def _statuses(values: Sequence[str]) -> Test:
    for value in values:
        if value not in STATUSES:
            raise InvalidArgument(f"invalid filter 'status={value}'")
    return lambda live: live.record.state.status in values


def _healths(values: Sequence[str]) -> Test:
    for value in values:
        if value not in HEALTHS:
            raise InvalidArgument(f"invalid filter 'health={value}'")

    def health(live: Live) -> str:
        found = live.record.state.health
        return found.status if found is not None and live.has_process else "none"

    return lambda live: health(live) in values


def _exits(values: Sequence[str]) -> Test:
    try:
        codes = {int(value) for value in values}
    except ValueError:
        raise InvalidArgument(f"invalid filter 'exited={values[0]}'") from None
    return lambda live: (
        not live.alive and live.record.state.finished_ns > 0 and live.record.state.exit_code in codes
    )


def _mounted(live: Live, value: str) -> bool:
    return any(value in (mount.name, mount.target, mount.source) for mount in live.record.mounts)


def _port_keys(value: str) -> set[str]:
    """ "80", "80/udp", "8000-8010/tcp". Raises InvalidArgument."""
    ports, _, protocol = value.partition("/")
    first, _, last = ports.partition("-")
    try:
        numbers = range(int(first), int(last or first) + 1)
    except ValueError:
        raise InvalidArgument(f"invalid port: {value}") from None
    return {f"{number}/{protocol or 'tcp'}" for number in numbers}


def _published(values: Sequence[str]) -> Test:
    wanted = {key for value in values for key in _port_keys(value)}

    def test(live: Live) -> bool:
        for key, bindings in live.record.ports.items():
            protocol = key.partition("/")[2]
            for binding in bindings or ():
                if key in wanted or f"{binding.host_port}/{protocol}" in wanted:
                    return True
        return False

    return test


def _exposed(values: Sequence[str]) -> Test:
    wanted = {key for value in values for key in _port_keys(value)}
    return lambda live: bool(wanted & set(live.record.config.exposed_ports or ()))


def _tasks(values: Sequence[str]) -> Test:
    """No container here is a task of a swarm."""
    if any(value not in decoding.BOOLEANS for value in values):
        raise InvalidArgument(f"invalid filter 'is-task=[{' '.join(values)}]'")
    return lambda live: any(value in ("false", "0") for value in values)


_TESTS: Final[dict[str, Callable[[Sequence[str]], Test]]] = {
    "id": _any(lambda live, value: live.id.startswith(value)),
    "name": _any(_named),
    "label": _all(_labelled),
    "status": _statuses,
    "health": _healths,
    "exited": _exits,
    "volume": _any(_mounted),
    "publish": _published,
    "expose": _exposed,
    "is-task": _tasks,
    "isolation": _any(lambda live, value: value in ("", "default", live.record.host_config.isolation)),
}


# -- words


def status(state: ContainerState, now_ns: int = 0) -> str:
    """ "Up 3 minutes (healthy)", "Exited (0) 2 days ago"."""
    now = now_ns or time.time_ns()
    since = ago((now - state.started_ns) / 1e9)
    ended = ago((now - state.finished_ns) / 1e9)
    if state.status == "running" and state.health is not None:
        health = state.health.status
        return f"Up {since} ({'health: starting' if health == 'starting' else health})"
    words = {
        "running": f"Up {since}",
        "paused": f"Up {since} (Paused)",
        "restarting": f"Restarting ({state.exit_code}) {ended} ago",
        "removing": "Removal In Progress",
        "dead": "Dead",
        "exited": f"Exited ({state.exit_code}) {ended} ago",
    }
    return words.get(state.status, "Created")


def ports(record: Container) -> list[dict[str, Any]]:
    """What is published, and while it runs what is exposed."""
    found: list[dict[str, Any]] = []
    if record.state.status not in ("running", "paused"):
        return found
    for key in sorted({*record.ports, *(record.config.exposed_ports or ())}):
        number, _, protocol = key.partition("/")
        if not number.isdigit():
            continue
        private = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        bindings = record.ports.get(key)
        if not bindings:
            found.append(private)
        for binding in bindings or ():
            public = {"PublicPort": int(binding.host_port)} if binding.host_port.isdigit() else {}
            found.append(
                {**({"IP": binding.host_ip} if binding.host_ip else {}), "PrivatePort": int(number), **public}
                | {"Type": protocol or "tcp"}
            )
    return found
