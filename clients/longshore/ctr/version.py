"""``ctr version``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from longshore.api import release
from longshore.ctr.command import command

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient


@command(name="version", plain=True, help="The versions of client and daemon.")
async def version(client: AsyncClient) -> None:
    daemon = await client.version()
    click.echo("Client:")
    click.echo(f"  Version:  {release.VERSION}")
    click.echo(f"  Python version: {sys.version.split()[0]}\n")
    click.echo("Server:")
    click.echo(f"  Version:  {daemon.version}")
    click.echo(f"  Revision: {daemon.revision}")
    server = await client.introspection.server()
    click.echo(f"  UUID: {server.uuid}")
