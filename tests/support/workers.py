"""Functions that the zygote's tests run in its workers: small, so that importing this costs nothing."""

from __future__ import annotations

import os
import signal
from typing import Any


def echo(arguments: Any, fds: list[int]) -> Any:
    return arguments


def environment(arguments: Any, fds: list[int]) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "environment": dict(os.environ),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    }


def read(arguments: Any, fds: list[int]) -> list[str]:
    return [os.read(fd, 100).decode() for fd in fds]


def fail(arguments: Any, fds: list[int]) -> None:
    raise KeyError("the reason")


def die(arguments: Any, fds: list[int]) -> None:
    os._exit(3)


def write_and_hang(path: str, fds: list[int]) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    signal.pause()


def executable_is_writable(arguments: Any, fds: list[int]) -> str:
    try:
        os.close(os.open("/proc/self/exe", os.O_WRONLY))
    except OSError as error:
        return error.strerror or ""
    return "writable"
