"""What runs in a worker of dockerd's zygote: a batch of docker-proxies is one call."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

PROGRAM = "longshore.proxy.main"
"""By name: dockerd imports nothing of a program that it starts."""


def start_proxies(arguments: dict[str, Any], fds: list[int]) -> list[dict[str, Any]]:
    """For each of the listening `fds` a process that goes on with it: {"pid": N}, or {"error": why not}.

    Their working directory is arguments["folder"]: by that they are known, also if nobody lives to hear of their pids.
    """
    os.chdir(arguments["folder"])
    start = import_module(PROGRAM).start
    answers: list[dict[str, Any]] = []
    for each, fd in zip(arguments["proxies"], fds, strict=True):
        try:
            answers.append(start(each, [fd]))
        except OSError as error:
            answers.append({"error": str(error)})
    return answers
