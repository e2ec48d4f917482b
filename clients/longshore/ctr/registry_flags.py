"""The flags of commands that speak to a registry, and how they show what happens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from longshore.ctr import tables

if TYPE_CHECKING:
    from longshore.client.registries import Options, Progress

FLAGS = (
    click.option("-k", "--skip-verify", is_flag=True, help="Don't check the registry's certificate."),
    click.option("--plain-http", is_flag=True, help="Speak HTTP without TLS."),
    click.option(
        "-u", "--user", default="", help="user[:password]; by default Docker's config.json is asked."
    ),
    click.option("--refresh", default="", help="A refresh token for the registry's token server."),
    click.option("--hosts-dir", default="", help="A folder of hosts.toml files: <host>/hosts.toml."),
    click.option("--tlscacert", default="", help="A certificate authority to trust."),
    click.option("--tlscert", default="", help="A client certificate."),
    click.option("--tlskey", default="", help="Its key."),
    click.option("--http-dump", is_flag=True, help="Show requests and answers."),
    click.option("--http-trace", is_flag=True, help="The same."),
)


def registry_options(function: Any) -> Any:
    """Give a command the flags; it gets them as one parameter `flags`."""

    def gathered(client: Any, *args: Any, **kwargs: Any) -> Any:
        flags = {name: kwargs.pop(name) for name in NAMES}
        return function(client, *args, flags=flags, **kwargs)

    gathered.__doc__ = function.__doc__
    return gathered


NAMES = (
    *("skip_verify", "plain_http", "user", "refresh", "hosts_dir"),
    *("tlscacert", "tlscert", "tlskey", "http_dump", "http_trace"),
)


def to_options(flags: dict[str, Any], name: str) -> Options:
    """What the SDK makes of the flags, for the registry of `name`. Asks for a password that wasn't given."""
    from longshore.client import references, registries

    user = flags["user"]
    if user and ":" not in user:
        user += ":" + click.prompt("Password", hide_input=True, err=True)
    dump = flags["http_dump"] or flags["http_trace"]
    return registries.options(
        user=user,
        identity_token=flags["refresh"],
        registry=references.parse(name).domain,
        hosts_dir=flags["hosts_dir"],
        plain_http=flags["plain_http"],
        skip_verify=flags["skip_verify"],
        ca=flags["tlscacert"],
        certificate=flags["tlscert"],
        key=flags["tlskey"],
        trace=(lambda text: click.echo(text, err=True)) if dump else None,
    )


class Display:
    """Bars on a terminal; elsewhere a line when something about a blob changes."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._stages: dict[str, str] = {}

    def __enter__(self) -> Callable[[Progress], None]:
        if sys.stdout.isatty() and not self._quiet:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            self._bars = Progress(
                TextColumn("{task.description:<26.26}"),
                TextColumn("{task.fields[stage]:<12}"),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
            )
            self._bars.start()
            return self._draw
        return self._say

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _draw(self, news: Progress) -> None:
        short = news.name.replace("-sha256:", " ")
        if news.digest not in self._tasks:
            self._tasks[news.digest] = self._bars.add_task(short, total=news.total, stage=news.stage)
        finished = news.stage not in ("waiting", "downloading", "uploading")
        self._bars.update(
            self._tasks[news.digest],
            completed=news.total if finished else news.offset,
            stage=news.stage,
        )

    def _say(self, news: Progress) -> None:
        if self._quiet or news.stage in ("waiting", self._stages.get(news.digest)):
            return
        self._stages[news.digest] = news.stage
        size = "" if news.stage == "resolved" else f" {tables.binary_size(news.total)}"
        click.echo(f"{news.name}: {news.stage}{size}")
