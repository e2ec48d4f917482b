"""Functions that the zygote's tests run in its workers: small, so that importing this costs nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def go_on(_: object, fds: list[int]) -> Callable[[], None]:
    """Answer at once, and live until fds[0] ends; what came goes to fds[1], after the pid."""
    return lambda: _pass_on(*fds)


def _pass_on(source: int, sink: int) -> None:
    os.write(sink, b"%d: " % os.getpid() + os.read(source, 100))


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
