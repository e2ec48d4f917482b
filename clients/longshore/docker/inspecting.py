"""inspect: of containers, images, networks, volumes, or whatever has the name."""

from __future__ import annotations

import sys
from typing import Any

import click

from longshore.docker import show
from longshore.docker.api import APIError, Failure
from longshore.docker.app import App

PLACES = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}


@click.command()
@click.option("--format", "-f", "form", default="")
@click.option("--size", "-s", is_flag=True)
@click.option("--type", "kind", default="")
@click.argument("names", metavar="NAME|ID...", nargs=-1, required=True)
@click.pass_obj
def anything(app: App, /, names: tuple[str, ...], form: str, size: bool, kind: str) -> None:
    """Return low-level information on Docker objects."""
    if kind and kind not in PLACES:
        raise Failure(f'"{kind}" is not a valid value for --type')
    print_all(app, names, form, (kind,) if kind else tuple(PLACES), size=size, said=not kind)


@click.command()
@click.option("--format", "-f", "form", default="")
@click.option("--size", "-s", is_flag=True)
@click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
@click.pass_obj
def container(app: App, /, names: tuple[str, ...], form: str, size: bool) -> None:
    """Display detailed information on one or more containers."""
    print_all(app, names, form, ("container",), size=size)


@click.command()
@click.option("--format", "-f", "form", default="")
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
@click.pass_obj
def image(app: App, /, names: tuple[str, ...], form: str) -> None:
    """Display detailed information on one or more images."""
    print_all(app, names, form, ("image",))


def print_all(
    app: App,
    names: tuple[str, ...],
    form: str,
    kinds: tuple[str, ...],
    *,
    size: bool = False,
    said: bool = False,
) -> None:
    """What was found is printed, then what was not found is told."""
    found: list[Any] = []
    failures: list[str] = []
    for name in names:
        try:
            found.append(_look(app, name, kinds, size=size))
        except APIError as error:
            failures.append(f"Error: No such object: {name}" if said and error.code == 404 else str(error))
    if found or not form:
        show.inspected(found, form)
    for text in failures:
        click.echo(text, err=True)
    if failures:
        sys.exit(1)


def _look(app: App, name: str, kinds: tuple[str, ...], *, size: bool) -> Any:
    for kind in kinds:
        query = {"size": True} if size and kind == "container" else None
        try:
            return app.client.get(PLACES[kind].format(name), query)
        except APIError as error:
            if error.code != 404 or kind == kinds[-1]:
                raise
    raise AssertionError("no kinds")
