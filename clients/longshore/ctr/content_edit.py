"""``ctr content edit`` and ``ctr content prune references``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from longshore.api.errors import NotFound
from longshore.ctr.command import Failure, Verbs, command

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.client.content import Info

# What keeps the layers of an image once they are snapshots.
LAYER_REFERENCE = "containerd.io/gc.ref.content.l."


def edited(data: bytes, editor: str) -> bytes:
    """What the user makes of it. Raises Failure."""
    with tempfile.TemporaryDirectory(prefix="ctr-") as folder:
        path = os.path.join(folder, "blob")
        with open(path, "wb") as file:
            file.write(data)
        try:
            status = subprocess.run([*shlex.split(editor), path], check=False).returncode
        except FileNotFoundError:
            raise Failure(f"no editor {editor!r}", "name one with --editor or EDITOR") from None
        if status:
            raise Failure(f"the editor ended with {status}: nothing was stored")
        with open(path, "rb") as file:  # anew: editors replace files
            return file.read()


@command(
    click.option("--validate", default="", help="Refuse a result that is none: json."),
    click.option(
        "--editor", envvar="EDITOR", default="vi", show_default=True, help="The command to edit with."
    ),
    click.argument("digest"),
    name="edit",
)
async def edit(client: AsyncClient, validate: str, editor: str, digest: str) -> None:
    """Edit a copy of a blob, and print the digest of what was stored; a lease of a day keeps it."""
    if validate not in ("", "json"):
        raise Failure(f"can't validate {validate!r}", "only json")
    data = edited(await client.content.read(digest), editor)
    if validate:
        try:
            json.loads(data)
        except ValueError as error:
            raise Failure(f"the result is no JSON: {error}", "nothing was stored") from None
    lease = await client.leases.create(expires=24 * 3600)
    click.echo(await client.with_lease(lease.id).content.write(f"edit-{digest}", data))


def layer_references(info: Info) -> list[str]:
    """The labels of a blob that keep layers."""
    return [key for key in info.labels if key.startswith(LAYER_REFERENCE)]


async def drop_layer_references(client: AsyncClient, info: Info) -> None:
    """A blob that was collected meanwhile is no error."""
    found = layer_references(info)
    if found:
        with suppress(NotFound):
            await client.content.label(info.digest, dict.fromkeys(found, ""))


@click.group("prune", cls=Verbs)
def prune() -> None:
    """Let the garbage collector have what isn't needed any more."""


@command(
    click.option("--async", "later", is_flag=True, help="Don't wait for the garbage collection."),
    click.option("--dry", is_flag=True, help="Only say what would be done."),
    name="references",
)
async def references(client: AsyncClient, later: bool, dry: bool) -> None:
    """Remove the labels by which manifests keep their layers: what is unpacked runs without them."""
    for info in await client.content.list():
        count = layer_references(info)
        if not count:
            continue
        click.echo(f"{info.digest}: {len(count)} layer{'s' * (len(count) > 1)}")
        if not dry:
            await drop_layer_references(client, info)
    if not dry:
        lease = await client.leases.create(expires=60)
        await client.leases.delete(lease.id, sync=not later)


prune.add_command(references)
