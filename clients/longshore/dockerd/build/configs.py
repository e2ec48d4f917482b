"""The configuration that a stage's steps change, as images hold it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from longshore.dockerd.records import ContainerConfig

DEFAULT_SHELL: Final = ("/bin/sh", "-c")
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Left out where they are empty; the other members are always there.
_OPTIONAL: Final = (
    "ExposedPorts",
    "Healthcheck",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "StopSignal",
    "StopTimeout",
    "Shell",
)
# Where a container differs from the next although it does the same.
_INCIDENTAL: Final = ("Hostname", "Domainname", "Image", "MacAddress")
_HEALTH_ORDER: Final = ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")


def of_image(image: dict[str, Any]) -> ContainerConfig:
    """A copy of the "config" of an image's configuration."""
    config = msgspec.convert(copy.deepcopy(image.get("config") or {}), ContainerConfig)
    config.cmd, config.entrypoint = words(config.cmd), words(config.entrypoint)
    return config


def words(command: list[str] | str | None) -> list[str] | None:
    return [command] if isinstance(command, str) else command


def copied(config: ContainerConfig) -> ContainerConfig:
    return copy.deepcopy(config)


def shell(config: ContainerConfig) -> list[str]:
    return list(config.shell or DEFAULT_SHELL)


def commented(config: ContainerConfig, comment: str, *, apart: bool = True) -> ContainerConfig:
    """The configuration of a step that runs nothing: its command is a remark about what was done."""
    changed = copied(config)
    remark = ["#(nop) ", comment] if apart else [f"#(nop) {comment}"]
    changed.cmd = [*shell(config), *remark]
    return changed


def with_command(
    config: ContainerConfig, command: Sequence[str], entrypoint: list[str] | None
) -> ContainerConfig:
    changed = copied(config)
    changed.cmd = list(command)
    if command:
        changed.entrypoint = entrypoint
    return changed


def set_variable(config: ContainerConfig, name: str, value: str) -> None:
    """ENV: in the place of one of the same name, else at the end."""
    entries = config.env = list(config.env or ())
    for place, entry in enumerate(entries):
        if entry.partition("=")[0] == name:
            entries[place] = f"{name}={value}"
            return
    entries.append(f"{name}={value}")


def document(config: ContainerConfig) -> dict[str, Any]:
    """As an image's configuration has it."""
    found: dict[str, Any] = msgspec.to_builtins(config)
    for name in _OPTIONAL:
        if not found.get(name):
            found.pop(name, None)
    health = found.get("Healthcheck")
    if health:
        found["Healthcheck"] = {name: health[name] for name in _HEALTH_ORDER if health.get(name)}
    return found


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two documents ask for the same, wherever it runs; empty and absent are one."""
    return _essence(left) == _essence(right)


def _essence(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value and name not in _INCIDENTAL}
