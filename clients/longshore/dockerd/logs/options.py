"""Log options (``--log-opt``): which there are, which are refused at create, and what they come to at start."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from longshore.api import errors
from longshore.dockerd.errors import ServerError
from longshore.dockerd.logs.rotation import Limits
from longshore.dockerd.logs.tags import render
from longshore.dockerd.records import LogConfig

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.dockerd.records import Container

_COMMON: Final = frozenset({"mode", "max-buffer-size", "max-size", "max-file", "compress"})
_ATTRIBUTES: Final = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
# Of the original, which know them by name, but we don't have them.
_ELSEWHERE: Final = frozenset(
    {"awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "journald", "logentries", "splunk", "syslog"}
)
_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp])?i?b?", re.IGNORECASE)
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Driver(NamedTuple):
    """A log driver as options see it."""

    options: frozenset[str]
    unknown: str
    """What is said of an unknown option."""
    limits: Callable[[Mapping[str, str]], Limits]
    path: str


def settle(asked: LogConfig, config: Config) -> LogConfig:
    """A container's log configuration at create: the daemon's defaults filled in. Raises InvalidArgument."""
    driver = asked.type or config.log_driver
    options = dict(asked.config or {})
    if driver == config.log_driver:
        options = {**config.log_opts, **options}
    validate(driver, options)
    return LogConfig(type=driver, config=options)


def validate(driver: str, options: Mapping[str, str]) -> None:
    """What the original refuses at create, and in daemon.json. Raises InvalidArgument."""
    known(driver)
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise errors.InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise errors.InvalidArgument(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        try:
            size(options["max-buffer-size"], 1024)
        except ValueError as error:
            raise errors.InvalidArgument(f"error parsing option max-buffer-size: {error}") from None
    for name in options:
        if name not in DRIVERS[driver].options:
            raise errors.InvalidArgument(DRIVERS[driver].unknown.format(name=name))


def known(driver: str) -> None:
    """Raises InvalidArgument for a driver that isn't built in."""
    if driver in _ELSEWHERE:
        raise errors.InvalidArgument(
            f"logger: the log driver '{driver}' isn't built in: there are {', '.join(sorted(DRIVERS))}"
        )
    if driver not in DRIVERS:
        raise errors.InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')


def limits(driver: str, options: Mapping[str, str]) -> Limits:
    """Of the log file. Raises ServerError, as the start of a container does in the original."""
    try:
        return DRIVERS[driver].limits(options)
    except ValueError as error:
        raise ServerError(f"failed to initialize logging driver: {error}") from None


def attributes(container: Container, options: Mapping[str, str], daemon_name: str = "docker") -> str:
    """What each record carries beside its text, as JSON; "" for nothing. Raises ServerError."""
    try:
        found = {**_labels(container, options), **_environment(container, options)}
        if options.get("tag"):
            found["tag"] = render(options["tag"], container, daemon_name)
    except (ValueError, re.error) as error:
        raise ServerError(f"failed to initialize logging driver: {error}") from None
    # Sorted, as the original writes them.
    return msgspec.json.encode(dict(sorted(found.items()))).decode() if found else ""


def _labels(container: Container, options: Mapping[str, str]) -> dict[str, str]:
    return _chosen(container.config.labels or {}, options.get("labels", ""), options.get("labels-regex", ""))


def _environment(container: Container, options: Mapping[str, str]) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in container.config.env or ())
    return _chosen(
        {name: value for name, equals, value in pairs if equals},
        options.get("env", ""),
        options.get("env-regex", ""),
    )


def _chosen(given: Mapping[str, str], names: str, pattern: str) -> dict[str, str]:
    matches = re.compile(pattern).search if pattern else lambda _: None
    wanted = set(names.split(",")) if names else set()
    return {name: value for name, value in given.items() if name in wanted or matches(name)}


def _json_file_limits(options: Mapping[str, str]) -> Limits:
    limit = 0
    if "max-size" in options:
        limit = size(options["max-size"], 1000)
        if limit <= 0:
            raise ValueError("max-size must be a positive number")
    files = integer(options.get("max-file", "1"))
    if files < 1:
        raise ValueError("max-file cannot be less than 1")
    compress = boolean(options.get("compress", "false"))
    if compress and (files < 2 or not limit):
        raise ValueError("compress cannot be true when max-file is less than 2 or max-size is not set")
    return Limits(limit, files, compress)


def _local_limits(options: Mapping[str, str]) -> Limits:
    limit = _named("max-size", options, lambda text: size(text, 1000)) or 20_000_000
    files = _named("max-file", options, integer, 5) or 1
    try:
        compress = boolean(options.get("compress", "true"))
    except ValueError as error:
        raise ValueError(f"error reading compress log option: {error}") from None
    if compress and files < 2:
        raise ValueError("compression cannot be enabled when max file count is 1")
    return Limits(limit, files, compress)


def _named(name: str, options: Mapping[str, str], read: Callable[[str], int], default: int = 0) -> int:
    if name not in options:
        return default
    try:
        return read(options[name])
    except ValueError as error:
        raise ValueError(f"invalid value for {name}: {options[name]}: {error}") from None


def size(text: str, base: int) -> int:
    """ "10k", "1.5 GB": bytes. Raises ValueError in the original's words."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match[1]) * base ** _UNITS[(match[2] or "").lower()])


def integer(text: str) -> int:
    """Raises ValueError in the original's words."""
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def boolean(text: str) -> bool:
    """Raises ValueError in the original's words."""
    if text not in _TRUE | _FALSE:
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def log_path(driver: str, container: Container) -> str:
    """Of the file written to; "" without one."""
    path = DRIVERS[driver].path
    return os.path.join(container.folder, path.format(id=container.id)) if path else ""


DRIVERS: Final = {
    "json-file": Driver(
        _COMMON | _ATTRIBUTES,
        "unknown log opt '{name}' for json-file log driver",
        _json_file_limits,
        "{id}-json.log",
    ),
    "local": Driver(
        _COMMON,
        "unknown log opt '{name}' for log driver local",
        _local_limits,
        "local-logs/container.log",
    ),
    "none": Driver(
        frozenset({"mode", "max-buffer-size"}),
        "unknown log opt '{name}' for none log driver",
        lambda _: Limits(),
        "",
    ),
}
