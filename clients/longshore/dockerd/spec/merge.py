"""What an image says and a body of create leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from longshore.api.errors import InvalidArgument
from longshore.dockerd.records import ContainerConfig, HealthConfig


def image_config(document: Mapping[str, Any]) -> ContainerConfig:
    """The `config` member of an image's config, typed."""
    return msgspec.convert(document.get("config") or {}, ContainerConfig, strict=False)


def merge(config: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """The container's wishes over the image's. An entrypoint of the container's own hides the image's command."""
    own = words(config.entrypoint)
    command = words(config.cmd)
    entrypoint = own
    if not own:
        command = command or words(image.cmd)
        # [""] is how a client says "none at all".
        entrypoint = words(image.entrypoint) if own is None else own
    elif own == [""]:
        entrypoint = None
    return msgspec.structs.replace(
        config,
        user=config.user or image.user,
        env=_environment(image.env or [], config.env or []),
        cmd=command,
        entrypoint=entrypoint,
        working_dir=config.working_dir or image.working_dir,
        exposed_ports=_union(image.exposed_ports, config.exposed_ports),
        volumes=_union(image.volumes, config.volumes),
        labels={**(image.labels or {}), **(config.labels or {})},
        stop_signal=config.stop_signal or image.stop_signal,
        stop_timeout=image.stop_timeout if config.stop_timeout is None else config.stop_timeout,
        shell=config.shell or image.shell,
        healthcheck=_health(config.healthcheck, image.healthcheck),
    )


def words(value: list[str] | str | None) -> list[str] | None:
    """The API takes a string where it means a list of one."""
    return [value] if isinstance(value, str) else value


def _union(below: dict[str, Any] | None, above: dict[str, Any] | None) -> dict[str, Any] | None:
    return {**(below or {}), **(above or {})} or None


def _environment(below: list[str], above: list[str]) -> list[str]:
    """The container's first, then what it doesn't name of the image's."""
    named = {entry.partition("=")[0] for entry in above}
    return [*above, *(entry for entry in below if entry.partition("=")[0] not in named)]


def _health(config: HealthConfig | None, image: HealthConfig | None) -> HealthConfig | None:
    if config is None or image is None:
        return config or image
    return HealthConfig(
        test=config.test or image.test,
        interval=config.interval or image.interval,
        timeout=config.timeout or image.timeout,
        start_period=config.start_period or image.start_period,
        start_interval=config.start_interval or image.start_interval,
        retries=config.retries or image.retries,
    )


def command(config: ContainerConfig) -> tuple[str, list[str]]:
    """A record's `path` and `args`, of a merged config. Raises InvalidArgument: "No command specified"."""
    line = [*(words(config.entrypoint) or ()), *(words(config.cmd) or ())]
    if not line:
        raise InvalidArgument("No command specified")
    return line[0], line[1:]
