"""``ctr info`` and ``ctr deprecations``: what the daemon says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from longshore.ctr import tables
from longshore.ctr.command import LIST, Verbs, command
from longshore.ctr.documents import document

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient


@command(name="info", plain=True)
async def info(client: AsyncClient) -> None:
    """Show the daemon's identity as JSON."""
    tables.show_json({"server": document(await client.introspection.server())})


@click.group("deprecations", cls=Verbs, aliases=LIST)
def deprecations() -> None:
    """What the daemon's clients or settings use that is going away."""


@command(tables.format_option, name="list", plain=True)
async def list_(client: AsyncClient, form: str) -> None:
    """List deprecations that the daemon has noticed."""
    found = (await client.introspection.server()).deprecations
    rows = [(entry.id, tables.rfc3339(entry.last_occurrence), entry.message) for entry in found]
    tables.show(("ID", "LAST OCCURRENCE", "MESSAGE"), rows, form=form, padding=4)


deprecations.add_command(list_)
