"""The template of ``--log-opt tag``: fields of the container between ``{{`` and ``}}``, and text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from longshore.dockerd.records import Container

_FIELD: Final = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)

_FIELDS: Final[dict[str, Callable[[Container, str], str]]] = {
    ".ID": lambda container, _: container.id[:12],
    ".FullID": lambda container, _: container.id,
    ".ContainerID": lambda container, _: container.id,
    ".Name": lambda container, _: container.name,
    ".ContainerName": lambda container, _: f"/{container.name}",
    ".ImageID": lambda container, _: container.image_id.partition(":")[2][:12],
    ".ImageFullID": lambda container, _: container.image_id,
    ".ContainerImageID": lambda container, _: container.image_id,
    ".ImageName": lambda container, _: container.image_ref,
    ".ContainerImageName": lambda container, _: container.image_ref,
    ".Command": lambda container, _: " ".join([container.path, *container.args]),
    ".DaemonName": lambda _, daemon: daemon,
    ".Hostname": lambda container, _: container.config.hostname,
}


def render(template: str, container: Container, daemon_name: str) -> str:
    """The text of a record's "tag". Raises ValueError for what isn't a field."""

    def field(match: re.Match[str]) -> str:
        value = _FIELDS.get(match[1])
        if value is None:
            raise ValueError(
                f'template: log-tag:1:{match.start() + 2}: executing "log-tag" at <{match[1]}>: '
                f"can't evaluate field {match[1].lstrip('.')} in type *logger.Info"
            )
        return value(container, daemon_name)

    return _FIELD.sub(field, template)
