"""``ctr content``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from longshore.ctr import tables
from longshore.ctr.command import LIST, REMOVE, Verbs, command, parse_labels
from longshore.ctr.content_edit import edit, prune
from longshore.ctr.content_remote import fetch, fetch_blob, fetch_object, push_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from longshore.client.client import AsyncClient


@click.group("content", cls=Verbs, aliases={**LIST, **REMOVE})
def content() -> None:
    """Manage blobs: what images are made of."""


@command(
    tables.quiet_option, tables.format_option, click.argument("filters", nargs=-1), name="list", plain=True
)
async def list_(client: AsyncClient, quiet: bool, form: str, filters: tuple[str, ...]) -> None:
    """List blobs."""
    found = await client.content.list(filters)
    if quiet:
        for info in found:
            click.echo(info.digest)
        return
    rows = [
        (i.digest, tables.decimal_size(i.size), tables.since(i.created_at), tables.labels(i.labels))
        for i in found
    ]
    objects = [
        {
            "digest": i.digest,
            "size": i.size,
            "created_at": tables.rfc3339(i.created_at),
            "labels": dict(i.labels),
        }
        for i in found
    ]
    tables.show(("DIGEST", "SIZE", "AGE", "LABELS"), rows, form=form, objects=objects)


@command(
    click.option("-t", "--timeout", default="", hidden=True),
    click.option("--root", default="", hidden=True),
    tables.format_option,
    click.argument("pattern", default=""),
    name="active",
    plain=True,
)
async def active(client: AsyncClient, timeout: str, root: str, form: str, pattern: str) -> None:
    """List what is being written."""
    found = await client.content.statuses([f"ref~={pattern}"] if pattern else [])
    rows = [(s.ref, tables.decimal_size(s.offset), tables.since(s.started_at)) for s in found]
    tables.show(("REF", "SIZE", "AGE"), rows, form=form)


@command(click.argument("digests", nargs=-1, required=True), name="get", plain=True)
async def get(client: AsyncClient, digests: tuple[str, ...]) -> None:
    """Write blobs to standard output."""
    for digest in digests:
        async for block in client.content.chunks(digest):
            sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


async def standard_input() -> AsyncIterator[bytes]:
    import asyncio

    from longshore.client.content import CHUNK

    while block := await asyncio.to_thread(sys.stdin.buffer.read, CHUNK):
        yield block


@command(
    click.option("--expected-size", type=int, default=0, help="Refuse another size (bytes)."),
    click.option("--expected-digest", default="", help="Refuse another digest."),
    click.argument("ref"),
    name="ingest",
    bulk=True,
)
async def ingest(client: AsyncClient, expected_size: int, expected_digest: str, ref: str) -> None:
    """Store standard input as a blob; REF names the writing, so that it can be resumed."""
    await client.content.write(ref, standard_input(), size=expected_size, expected=expected_digest)


@command(click.argument("digests", nargs=-1, required=True), name="delete", plain=True)
async def delete(client: AsyncClient, digests: tuple[str, ...]) -> None:
    """Remove blobs."""
    for digest in digests:
        await client.content.delete(digest)
        click.echo(digest)


@command(
    click.argument("digest"), click.argument("labels", nargs=-1, required=True), name="label", plain=True
)
async def label(client: AsyncClient, digest: str, labels: tuple[str, ...]) -> None:
    """Set labels; an empty value removes one."""
    info = await client.content.label(digest, parse_labels(labels))
    click.echo(tables.labels(info.labels))


for verb in (
    *(list_, active, get, ingest, delete, label, edit, prune),
    *(fetch, fetch_object, fetch_blob, push_object),
):
    content.add_command(verb)
