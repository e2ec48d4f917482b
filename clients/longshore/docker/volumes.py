"""Volumes."""

from __future__ import annotations

from typing import Any

import click

from longshore.docker import inspecting, options, show
from longshore.docker.api import APIError
from longshore.docker.app import App, confirmed, filters
from longshore.docker.containers import pruned
from longshore.docker.show import Row

COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"))


@click.command()
@click.option("--filter", "-f", "chosen", multiple=True)
@click.option("--format", "form", default="")
@click.option("--quiet", "-q", is_flag=True)
@click.pass_obj
def ls(app: App, /, chosen: tuple[str, ...], form: str, quiet: bool) -> None:
    """List volumes."""
    found = app.client.get("/volumes", {"filters": filters(chosen)})["Volumes"] or []
    rows = [_row(volume) for volume in sorted(found, key=lambda volume: volume["Name"])]
    show.listing(rows, form, COLUMNS, "Name" if quiet else "")


def _row(volume: Any) -> Row:
    labels = volume.get("Labels") or {}
    return Row(
        {
            "Name": lambda: volume["Name"],
            "Driver": lambda: volume["Driver"],
            "Scope": lambda: volume["Scope"],
            "Mountpoint": lambda: volume["Mountpoint"],
            "Labels": lambda: ",".join(f"{name}={value}" for name, value in labels.items()),
            "Label": lambda name: labels.get(name, ""),
            "Links": lambda: "N/A",
            "Size": lambda: "N/A",
        }
    )


@click.command()
@click.option("--driver", "-d", default="local")
@click.option("--label", multiple=True)
@click.option("--name", "given", default="")
@click.option("--opt", "-o", multiple=True)
@click.argument("name", required=False)
@click.pass_obj
def create(
    app: App, /, name: str | None, given: str, driver: str, label: tuple[str, ...], opt: tuple[str, ...]
) -> None:
    """Create a volume."""
    body = {
        "Name": name or given,
        "Driver": driver,
        "DriverOpts": options.pairs(opt),
        "Labels": options.pairs(label),
    }
    click.echo(app.client.post("/volumes/create", None, body)["Name"])


@click.command()
@click.option("--force", "-f", is_flag=True)
@click.argument("names", metavar="VOLUME...", nargs=-1, required=True)
@click.pass_obj
def rm(app: App, /, names: tuple[str, ...], force: bool) -> None:
    """Remove one or more volumes."""
    app.each(names, lambda name: app.client.delete(f"/volumes/{name}", {"force": force}))


@click.command()
@click.option("--format", "-f", "form", default="")
@click.argument("names", metavar="VOLUME...", nargs=-1, required=True)
@click.pass_obj
def inspect(app: App, /, names: tuple[str, ...], form: str) -> None:
    """Display detailed information on one or more volumes."""
    inspecting.print_all(app, names, form, ("volume",))


@click.command()
@click.option("--all", "-a", "everything", is_flag=True)
@click.option("--filter", "chosen", multiple=True)
@click.option("--force", "-f", is_flag=True)
@click.pass_obj
def prune(app: App, /, everything: bool, chosen: tuple[str, ...], force: bool) -> None:
    """Remove unused local volumes."""
    if not confirmed("This will remove anonymous local volumes not used by at least one container.", force):
        return
    asked = filters([*chosen, *(["all=true"] if everything and app.client.version >= (1, 42) else [])])
    try:
        found = app.client.post("/volumes/prune", {"filters": asked})
    except APIError as error:
        raise error from None
    pruned("Deleted Volumes", found.get("VolumesDeleted") or [], found["SpaceReclaimed"])
