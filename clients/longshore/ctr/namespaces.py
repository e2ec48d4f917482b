"""``ctr namespaces``."""

from __future__ import annotations

import os
from glob import glob
from typing import TYPE_CHECKING

import click

from longshore.ctr import tables
from longshore.ctr.command import LIST, Verbs, command, parse_labels

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient


@click.group(
    "namespaces",
    cls=Verbs,
    aliases={**LIST, "c": "create", "rm": "remove", "del": "remove", "delete": "remove"},
)
def namespaces() -> None:
    """Manage namespaces: each isolates the images and containers of one tenant."""


@command(
    click.argument("name"),
    click.argument("labels", nargs=-1, metavar="[LABEL=VALUE]..."),
    name="create",
    plain=True,
)
async def create(client: AsyncClient, name: str, labels: tuple[str, ...]) -> None:
    """Make a namespace."""
    await client.namespaces.create(name, parse_labels(labels))


@command(tables.quiet_option, tables.format_option, name="list", plain=True)
async def list_(client: AsyncClient, quiet: bool, form: str) -> None:
    """List namespaces."""
    found = await client.namespaces.list()
    if quiet:
        for namespace in found:
            click.echo(namespace.name)
        return
    rows = [(n.name, ",".join(f"{k}={n.labels[k]}" for k in sorted(n.labels))) for n in found]
    objects = [{"name": n.name, "labels": dict(n.labels)} for n in found]
    tables.show(("NAME", "LABELS"), rows, form=form, objects=objects)


def remove_cgroups(name: str) -> None:
    """The namespace's cgroup in every hierarchy, where it is there and empty. Raises OSError (it is busy)."""
    for path in glob(f"/sys/fs/cgroup/*/{name}") + glob(f"/sys/fs/cgroup/{name}"):
        if os.path.exists(f"{path}/cgroup.procs"):
            os.rmdir(path)


@command(
    click.option("-c", "--cgroup", is_flag=True, help="Also the namespace's cgroup, which runc leaves."),
    click.argument("names", nargs=-1, required=True),
    name="remove",
    plain=True,
)
async def remove(client: AsyncClient, cgroup: bool, names: tuple[str, ...]) -> None:
    """Remove empty namespaces."""
    for name in names:
        await client.namespaces.delete(name)
        if cgroup:
            remove_cgroups(name)
        click.echo(name)


@command(click.argument("name"), click.argument("labels", nargs=-1, required=True), name="label", plain=True)
async def label(client: AsyncClient, name: str, labels: tuple[str, ...]) -> None:
    """Set labels; an empty value removes one."""
    await client.namespaces.label(name, parse_labels(labels))


for verb in (create, list_, remove, label):
    namespaces.add_command(verb)
