"""The daemon's streams of progress: pull, push, load, import, build."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from longshore.docker import show
from longshore.docker.api import Failure


def display(
    messages: Iterable[Any], aux: Callable[[Any], None] = lambda _: None, *, quiet: bool = False
) -> None:
    """Print them as they come. Raises Failure with what the daemon says went wrong."""
    screen = _Screen() if sys.stdout.isatty() and not quiet else None
    for message in messages:
        if "error" in message or "errorDetail" in message:
            detail = message.get("errorDetail") or {}
            raise Failure(detail.get("message") or message["error"], detail.get("code") or 1)
        if message.get("aux") is not None:
            aux(message["aux"])
        elif not quiet:
            _print(message, screen)


def _print(message: Any, screen: _Screen | None) -> None:
    if "stream" in message:
        click.echo(message["stream"], nl=False)
        return
    status, id = message.get("status", ""), message.get("id", "")
    line = f"{id}: {status}" if id else status
    if message.get("progressDetail"):
        if screen is None:
            return  # only what stays is worth a line of a file
        line += " " + bar(message["progressDetail"])
    if screen is not None and id:
        screen.put(id, line)
    else:
        click.echo(line)


def bar(detail: Any) -> str:
    """ "[====>    ]  1.2MB/3MB"."""
    current, total = detail.get("current", 0), detail.get("total", 0)
    if not total:
        return show.size(current)
    filled = min(50, current * 50 // total)
    picture = "=" * filled + (">" if filled < 50 else "")
    return f"[{picture.ljust(50)}]  {show.size(current)}/{show.size(total)}"


class _Screen:
    """One line per layer, rewritten in place."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}

    def put(self, id: str, line: str) -> None:
        if id not in self._rows:
            self._rows[id] = len(self._rows)
            click.echo("")
        up = len(self._rows) - self._rows[id]
        click.echo(f"\x1b[{up}A\x1b[2K\r{line}\x1b[{up}B\r", nl=False)
