"""``ctr plugins``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from longshore.ctr import tables
from longshore.ctr.command import LIST, Verbs, command

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.client.introspection import Plugin


@click.group("plugins", cls=Verbs, aliases=LIST)
def plugins() -> None:
    """What the daemon is made of."""


def status(plugin: Plugin) -> str:
    """A plugin that chose not to run says so in its error's text."""
    if not plugin.HasField("init_err"):
        return "ok"
    return "skip" if "skip plugin" in plugin.init_err.message else "error"


def platforms(plugin: Plugin) -> str:
    found = ["/".join(filter(None, (p.os, p.architecture, p.variant))) for p in plugin.platforms]
    return ",".join(found) or "-"


@command(
    tables.quiet_option,
    click.option("-d", "--detailed", is_flag=True, help="Everything about each plugin."),
    tables.format_option,
    click.argument("filters", nargs=-1),
    name="list",
)
async def list_(
    client: AsyncClient, quiet: bool, detailed: bool, form: str, filters: tuple[str, ...]
) -> None:
    """List the daemon's plugins."""
    found = await client.introspection.plugins(filters)
    if quiet:
        for plugin in found:
            click.echo(f"{plugin.type}.{plugin.id}")
        return
    if detailed and form == "table":
        click.echo("\n".join(describe(plugin) for plugin in found), nl=False)
        return
    rows = [(p.type, p.id, platforms(p), status(p)) for p in found]
    objects = [
        {
            "type": p.type,
            "id": p.id,
            "platforms": platforms(p),
            "status": status(p),
            "requires": list(p.requires),
            "exports": dict(p.exports),
            "capabilities": list(p.capabilities),
            "error": p.init_err.message,
        }
        for p in found
    ]
    tables.show(("TYPE", "ID", "PLATFORMS", "STATUS"), rows, form=form, padding=4, objects=objects)


def describe(plugin: Plugin) -> str:
    lines = [("Type:", plugin.type), ("ID:", plugin.id)]
    if plugin.requires:
        lines += [("Requires:", "")] + [("", name) for name in plugin.requires]
    if plugin.platforms:
        lines.append(("Platforms:", platforms(plugin)))
    if plugin.exports:
        lines += [("Exports:", "")] + [
            ("", f"{key}: {plugin.exports[key]}") for key in sorted(plugin.exports)
        ]
    if plugin.capabilities:
        lines.append(("Capabilities:", ",".join(plugin.capabilities)))
    if plugin.HasField("init_err"):
        lines.append(("Error:", plugin.init_err.message))
    return "".join(f"{key:<15}{value}\n" for key, value in lines)


plugins.add_command(list_)
