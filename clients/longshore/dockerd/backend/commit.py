"""`docker commit`: an image from what a container changed."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import msgspec

from longshore.api.errors import Error, InvalidArgument, NotFound
from longshore.dockerd.archive import marks
from longshore.dockerd.backend.live import Live
from longshore.dockerd.backend.parts import Parts
from longshore.dockerd.backend.stop import Stopping
from longshore.dockerd.engine import ImageInfo
from longshore.dockerd.errors import Conflict
from longshore.dockerd.records import ContainerConfig, HealthConfig
from longshore.dockerd.spec import merge

Config = dict[str, Any]


async def commit(
    parts: Parts,
    live: Live,
    *,
    name: str = "",
    config: ContainerConfig | None = None,
    changes: Sequence[str] = (),
    author: str = "",
    comment: str = "",
    pause: bool = True,
) -> ImageInfo:
    """A new image of the container's root file system (volumes aren't part of it). Raises InvalidArgument, Conflict."""
    record = live.record
    if record.state.status in ("dead", "removing") or record.state.removing:
        raise Conflict(f"You cannot commit container {record.id} which is {record.state.status}")
    whole = change(merge.merge(config, record.config) if config else record.config, changes)
    async with AsyncExitStack() as stack:
        if pause and record.state.status == "running":
            stopping = Stopping(parts)
            await stopping.pause(live)
            stack.push_async_callback(_unpaused, stopping, live)
        document = {
            "author": author,
            "comment": comment,
            "config": plain(whole),
            "container": record.id,
            "container_config": plain(record.config),
            "docker_version": "",
            "history": [_step(live, author, comment)],
        }
        parent = await _parent(parts, live)
        await stack.enter_async_context(_bare(parts, live))
        info = await parts.images.make(parent, record.id, document, [name] if name else [])
    parts.publish(live, "commit", {"comment": comment, "imageID": info.id, "imageRef": name})
    return info


@asynccontextmanager
async def _bare(parts: Parts, live: Live) -> AsyncIterator[None]:
    """A stopped container is without what we put into its layer, and isn't started meanwhile.

    Of a running one's layer nothing may be taken: its image has an empty
    `/.dockerenv`, too.
    """
    if live.has_process:
        yield
        return
    async with live.lock:
        if live.mounts is None:
            live.mounts = await parts.snapshots(live).mounts(live.id)
        await asyncio.to_thread(marks.clear, live.mounts)
        try:
            yield
        finally:
            await asyncio.to_thread(marks.make, live.mounts)


async def _unpaused(stopping: Stopping, live: Live) -> None:
    with suppress(Error):  # it ended meanwhile
        await stopping.unpause(live)


async def _parent(parts: Parts, live: Live) -> ImageInfo | None:
    try:
        return await parts.images.resolve(live.record.image_id)
    except NotFound as error:
        raise NotFound(f"the image of container {live.id} is gone: {live.record.image_id}") from error


def _step(live: Live, author: str, comment: str) -> dict[str, Any]:
    step = {
        "created_by": " ".join([live.record.path, *live.record.args]),
        "author": author,
        "comment": comment,
    }
    return {key: value for key, value in step.items() if value}


def plain(config: ContainerConfig) -> Config:
    """As it stands in an image: members that say nothing are left out."""
    document: Config = msgspec.to_builtins(config)
    return {key: value for key, value in document.items() if value not in ("", None, [], {}, False)}


# -- changes in the words of a Dockerfile

_LINE: Final = re.compile(r"\s*([A-Za-z]+)\s+(.+)", re.DOTALL)


def change(config: ContainerConfig, lines: Sequence[str]) -> ContainerConfig:
    """The config after `CMD ...`, `ENV ...` and the like. Raises InvalidArgument."""
    changed = msgspec.structs.replace(config)
    for line in lines:
        for one in filter(str.strip, line.splitlines()):
            match = _LINE.fullmatch(one)
            word = match[1].upper() if match else one.split()[0].upper()
            if match is None or word not in _CHANGES:
                raise InvalidArgument(f"{word} is not a valid change command")
            _CHANGES[word](changed, match[2].strip())
    return changed


def _words(text: str) -> list[str]:
    """A JSON list, or a line for the shell."""
    if text.startswith("["):
        with suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, list) and all(isinstance(word, str) for word in found):
                return found
    return ["/bin/sh", "-c", text]


def _list(text: str) -> list[str]:
    if text.startswith("["):
        with suppress(ValueError):
            return [str(word) for word in json.loads(text)]
    return shlex.split(text)


def _pairs(text: str) -> list[tuple[str, str]]:
    """``A=1 B="2 3"``, or the older ``A 1 2``."""
    words = shlex.split(text)
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        return [(name, value.strip())]
    if wrong := [word for word in words if "=" not in word]:
        raise InvalidArgument(f"Syntax error - can't find = in {wrong[0]!r}. Must be of the form: name=value")
    return [(name, value) for name, _, value in (word.partition("=") for word in words)]


def _cmd(config: ContainerConfig, text: str) -> None:
    config.cmd = _words(text)


def _entrypoint(config: ContainerConfig, text: str) -> None:
    config.entrypoint = _words(text)


def _env(config: ContainerConfig, text: str) -> None:
    values = dict(entry.partition("=")[::2] for entry in config.env or ())
    config.env = [f"{name}={value}" for name, value in (values | dict(_pairs(text))).items()]


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = {**(config.labels or {}), **dict(_pairs(text))}


def _expose(config: ContainerConfig, text: str) -> None:
    ports = [word if "/" in word else f"{word}/tcp" for word in text.split()]
    config.exposed_ports = {**(config.exposed_ports or {}), **{port: {} for port in ports}}


def _volume(config: ContainerConfig, text: str) -> None:
    config.volumes = {**(config.volumes or {}), **{path: {} for path in _list(text)}}


def _user(config: ContainerConfig, text: str) -> None:
    config.user = text


def _workdir(config: ContainerConfig, text: str) -> None:
    config.working_dir = text if text.startswith("/") else f"{config.working_dir.rstrip('/')}/{text}"


def _signal(config: ContainerConfig, text: str) -> None:
    config.stop_signal = text


def _trigger(config: ContainerConfig, text: str) -> None:
    config.on_build = [*(config.on_build or ()), text]


def _health(config: ContainerConfig, text: str) -> None:
    if text.upper() == "NONE":
        config.healthcheck = HealthConfig(test=["NONE"])
        return
    word, _, rest = text.partition(" ")
    if word.upper() != "CMD" or not rest.strip():
        raise InvalidArgument(f"Unknown type {word!r} in HEALTHCHECK (try CMD)")
    words = _words(rest.strip())
    test = ["CMD-SHELL", words[2]] if words[:2] == ["/bin/sh", "-c"] else ["CMD", *words]
    config.healthcheck = HealthConfig(test=test)


_CHANGES: Final[dict[str, Callable[[ContainerConfig, str], None]]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _health,
    "LABEL": _label,
    "ONBUILD": _trigger,
    "STOPSIGNAL": _signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
