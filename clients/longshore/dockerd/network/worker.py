"""What runs in a worker of dockerd's zygote: a batch of docker-proxies is one call."""

from __future__ import annotations

from importlib import import_module
from typing import Any

PROGRAM = "longshore.proxy.main"
"""By name: dockerd imports nothing of a program that it starts."""


def start_proxies(arguments: list[dict[str, Any]], fds: list[int]) -> list[dict[str, Any]]:
    """For each of the listening `fds` a process that goes on with it: {"pid": N}, or {"error": why not}."""
    start = import_module(PROGRAM).start
    answers: list[dict[str, Any]] = []
    for each, fd in zip(arguments, fds, strict=True):
        try:
            answers.append(start(each, [fd]))
        except OSError as error:
            answers.append({"error": str(error)})
    return answers
