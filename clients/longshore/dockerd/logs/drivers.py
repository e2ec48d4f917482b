"""What a logger does with records: one class per log driver. Runs in the logger process."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any, Protocol

from longshore.dockerd.logs.jsonfile import Encoder
from longshore.dockerd.logs.rotation import File, Limits


class Driver(Protocol):
    """Never raises from `write`: a full disk costs records, not the container."""

    @abstractmethod
    def write(self, stream: str, data: bytes, whole: bool) -> None:
        """Whole lines of "stdout" or "stderr", or one piece of a line."""

    @abstractmethod
    def news(self) -> tuple[bool, int]:
        """Since it was asked last: whether the log has grown, and the descriptor of the new file or -1."""

    @abstractmethod
    def descriptors(self) -> list[int]: ...

    @abstractmethod
    def close(self) -> None: ...


class Nothing(Driver):
    """Driver "none"."""

    def write(self, stream: str, data: bytes, whole: bool) -> None:
        return None

    def news(self) -> tuple[bool, int]:
        return False, -1

    def descriptors(self) -> list[int]:
        return []

    def close(self) -> None:
        return None


class InFile(Driver):
    """Drivers that append to a file."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._file = File(path, limits)
        self._grown = False
        self._known = self._file.opened

    def news(self) -> tuple[bool, int]:
        if not self._grown:
            return False, -1
        rotated, self._known, self._grown = self._file.opened > self._known, self._file.opened, False
        return True, self._file.fd if rotated else -1

    def descriptors(self) -> list[int]:
        return [self._file.fd]

    def close(self) -> None:
        self._file.close()

    def _append(self, records: bytes, ends: list[int] | None = None) -> None:
        try:
            self._file.write(records, ends)
        except OSError:
            return
        self._grown = True


class JSONFile(InFile):
    """Driver "json-file"."""

    def __init__(self, path: str, limits: Limits, attrs: str) -> None:
        super().__init__(path, limits)
        self._encoder = Encoder(attrs)

    def write(self, stream: str, data: bytes, whole: bool) -> None:
        self._append(self._encoder.encode(stream, time.time_ns(), data, whole))


class Local(InFile):
    """Driver "local"."""

    def __init__(self, path: str, limits: Limits) -> None:
        from longshore.dockerd.logs.local import Encoder

        super().__init__(path, limits)
        self._encoder = Encoder()

    def write(self, stream: str, data: bytes, whole: bool) -> None:
        self._append(*self._encoder.encode(stream, time.time_ns(), data, whole))


def make_driver(arguments: dict[str, Any]) -> Driver:
    """Opens the log. Raises OSError."""
    name = arguments["driver"]
    if name == "none":
        return Nothing()
    limits = Limits(*arguments["limits"])
    if name == "local":
        return Local(arguments["path"], limits)
    if name == "json-file":
        return JSONFile(arguments["path"], limits, arguments["attrs"])
    raise ValueError(f"no log driver named '{name}'")
