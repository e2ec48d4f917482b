"""``ctr leases``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from longshore.ctr import tables
from longshore.ctr.command import LIST, REMOVE, Verbs, command, parse_labels

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient

_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}


def duration(text: str) -> float:
    """Seconds of ``24h``, ``1h30m``, ``90s`` or a bare number. Raises click.BadParameter."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if parts and "".join(f"{number}{unit}" for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no duration: say 24h, 1h30m or 90s") from None


@click.group("leases", cls=Verbs, aliases={**LIST, **REMOVE})
def leases() -> None:
    """Manage leases, which keep content and snapshots from the garbage collector."""


@command(
    tables.quiet_option, tables.format_option, click.argument("filters", nargs=-1), name="list", plain=True
)
async def list_(client: AsyncClient, quiet: bool, form: str, filters: tuple[str, ...]) -> None:
    """List leases."""
    found = await client.leases.list(filters)
    if quiet:
        for lease in found:
            click.echo(lease.id)
        return
    rows = [(lease.id, tables.rfc3339(lease.created_at), tables.labels(lease.labels)) for lease in found]
    objects = [
        {"id": lease.id, "created_at": tables.rfc3339(lease.created_at), "labels": dict(lease.labels)}
        for lease in found
    ]
    tables.show(("ID", "CREATED AT", "LABELS"), rows, form=form, objects=objects)


@command(
    click.option("--id", "lease", default="", help="The lease's name; without, the daemon chooses."),
    click.option("-x", "--expires", default="24h", help="End of life from now, as 24h or 90s; 0 for never."),
    click.argument("labels", nargs=-1, metavar="[LABEL=VALUE]..."),
    name="create",
    plain=True,
)
async def create(client: AsyncClient, lease: str, expires: str, labels: tuple[str, ...]) -> None:
    """Make a lease and print its name."""
    seconds = duration(expires)
    made = await client.leases.create(id=lease, expires=seconds or None, labels=parse_labels(labels))
    click.echo(made.id)


@command(
    click.option("--sync", is_flag=True, help="Return after the garbage collection that follows."),
    click.argument("ids", nargs=-1, required=True),
    name="delete",
    plain=True,
)
async def delete(client: AsyncClient, sync: bool, ids: tuple[str, ...]) -> None:
    """End leases."""
    for place, lease in enumerate(ids):
        await client.leases.delete(lease, sync=sync and place == len(ids) - 1)
        click.echo(lease)


@command(click.argument("lease"), tables.format_option, name="resources", plain=True)
async def resources(client: AsyncClient, lease: str, form: str) -> None:
    """List what a lease holds."""
    found = await client.leases.resources(lease)
    tables.show(("TYPE", "ID"), [(resource.type, resource.id) for resource in found], form=form)


for verb in (list_, create, delete, resources):
    leases.add_command(verb)
