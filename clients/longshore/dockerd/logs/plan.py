"""What a container's log configuration comes to: paths, limits, attributes. Data only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from longshore.dockerd.engine import StdioPaths
from longshore.dockerd.logs import options, wire
from longshore.dockerd.logs.jsonformat import JSONFormat
from longshore.dockerd.logs.localformat import LocalFormat
from longshore.dockerd.logs.reading import Format
from longshore.dockerd.logs.rotation import Limits

if TYPE_CHECKING:
    from longshore.dockerd.config import Config
    from longshore.dockerd.records import Container


class Plan(NamedTuple):
    folder: str
    driver: str
    path: str
    """Of the log file, "" without one."""
    reported_path: str
    """What inspect shows as LogPath."""
    limits: Limits
    attrs: str
    stdio: StdioPaths
    format: Callable[[], Format] | None

    def arguments(self) -> dict[str, Any]:
        """For the logger's process."""
        return {
            "folder": self.folder,
            "driver": self.driver,
            "path": self.path,
            "limits": list(self.limits),
            "attrs": self.attrs,
            "stdin": bool(self.stdio.stdin),
            "stderr": bool(self.stdio.stderr),
        }

    def fifos(self) -> list[str]:
        stdio = self.stdio
        return [path for path in (stdio.stdin, stdio.stdout, stdio.stderr) if path]


def make(container: Container, config: Config, folder: str) -> Plan:
    """Raises InvalidArgument where the driver or an option isn't known, ServerError where a value makes no sense."""
    chosen = container.host_config.log_config
    if not chosen.type:
        chosen = options.settle(chosen, config)
    options.known(chosen.type)
    values = chosen.config or {}
    path = options.log_path(chosen.type, container)
    return Plan(
        folder,
        chosen.type,
        path,
        path if chosen.type == "json-file" else "",
        options.limits(chosen.type, values),
        options.attributes(container, values) if chosen.type == "json-file" else "",
        _stdio(container, folder),
        _FORMATS.get(chosen.type),
    )


_FORMATS: dict[str, Callable[[], Format]] = {"json-file": JSONFormat, "local": LocalFormat}


def _stdio(container: Container, folder: str) -> StdioPaths:
    terminal = container.config.tty
    return StdioPaths(
        f"{folder}/{wire.STDIN_FIFO}" if container.config.open_stdin else "",
        f"{folder}/{wire.FIFOS[wire.STDOUT]}",
        "" if terminal else f"{folder}/{wire.FIFOS[wire.STDERR]}",
        terminal,
    )
