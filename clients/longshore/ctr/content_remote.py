"""``ctr content fetch``, ``fetch-object``, ``fetch-blob``, ``push-object``: what lies at a registry, piece by piece."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from longshore.api.errors import NotFound
from longshore.ctr.command import Failure, command, parse_labels
from longshore.ctr.registry_flags import FLAGS, Display, registry_options, to_options

if TYPE_CHECKING:
    from longshore.api.types.descriptor_pb2 import Descriptor
    from longshore.client.client import AsyncClient
    from longshore.client.remote import Remote


@command(
    *FLAGS,
    click.option("--label", "labels", multiple=True, help="key=value for the image; may be repeated."),
    click.option("--platform", "platforms", multiple=True, help="Another platform than the host's."),
    click.option("--all-platforms", is_flag=True, help="Every platform."),
    click.option(
        "--all-metadata", is_flag=True, help="Also manifests and configurations of other platforms."
    ),
    click.option(
        "--metadata-only", is_flag=True, help="Only manifests and configurations, of every platform."
    ),
    click.option("--skip-metadata", is_flag=True, hidden=True),
    click.argument("name"),
    name="fetch",
    bulk=True,
)
@registry_options
async def fetch(
    client: AsyncClient,
    flags: dict[str, Any],
    labels: tuple[str, ...],
    platforms: tuple[str, ...],
    all_platforms: bool,
    all_metadata: bool,
    metadata_only: bool,
    skip_metadata: bool,
    name: str,
) -> None:
    """Store an image's blobs and record it, without unpacking."""
    from longshore.client.oci import parse_platform
    from longshore.client.remote import fetch_metadata

    if len(platforms) > 1:
        raise Failure("only one --platform at a time", "take --all-platforms for all of them")
    registry = to_options(flags, name)
    if metadata_only or all_metadata:
        target = await fetch_metadata(client, name, registry)
        click.echo(f"{name} {target.digest}")
    if metadata_only:
        return
    with Display() as progress:
        image = await client.images.pull(
            name,
            platform=parse_platform(platforms[0]) if platforms else None,
            all_platforms=all_platforms,
            unpack=False,
            labels=parse_labels(labels),
            registry=registry,
            progress=progress,
        )
    click.echo(f"{image.name} {image.target.digest}")


async def descriptor_of(remote: Remote, digest: str) -> Descriptor:
    """The descriptor of something below the remote's name; a registry doesn't tell sizes by digest alone."""
    from longshore.client import oci
    from longshore.client.remote import parsed

    pending = [await remote.resolve()]
    while pending:
        blob = pending.pop()
        if blob.digest == digest:
            return blob
        if blob.media_type in oci.INDEXES | oci.MANIFESTS:
            data = b"".join([block async for block in remote.fetch(blob)])
            pending += oci.children(parsed(blob, data))
    error = NotFound(f"{digest} is nothing that the image consists of: not found")
    error.hint = "`ctr content fetch-object NAME` shows the manifest, which lists the digests"
    raise error


async def write_out(remote: Remote, blob: Descriptor) -> None:
    async for block in remote.fetch(blob):
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


@command(
    *FLAGS,
    click.argument("name"),
    click.argument("digest", default=""),
    name="fetch-object",
    bulk=True,
)
@registry_options
async def fetch_object(client: AsyncClient, flags: dict[str, Any], name: str, digest: str) -> None:
    """Write what NAME stands for, or one object below it, to standard output; nothing is stored."""
    from longshore.client.remote import remote

    async with remote(name, to_options(flags, name)) as found:
        await write_out(found, await descriptor_of(found, digest) if digest else await found.resolve())


@command(
    *FLAGS,
    click.option("--media-type", default="", hidden=True),
    click.argument("name"),
    click.argument("digests", nargs=-1, required=True),
    name="fetch-blob",
    bulk=True,
)
@registry_options
async def fetch_blob(
    client: AsyncClient, flags: dict[str, Any], media_type: str, name: str, digests: tuple[str, ...]
) -> None:
    """Write blobs of the image NAME to standard output; nothing is stored."""
    from longshore.client.remote import remote

    async with remote(name, to_options(flags, name)) as found:
        for digest in digests:
            await write_out(found, await descriptor_of(found, digest))


@command(
    *FLAGS,
    click.argument("name"),
    click.argument("digest"),
    click.argument("media_type", metavar="TYPE"),
    name="push-object",
    bulk=True,
)
@registry_options
async def push_object(
    client: AsyncClient, flags: dict[str, Any], name: str, digest: str, media_type: str
) -> None:
    """Send one blob or manifest of the store to the repository NAME."""
    from longshore.api.types.descriptor_pb2 import Descriptor
    from longshore.client.remote import remote

    size = (await client.content.info(digest)).size
    async with remote(name, to_options(flags, name)) as found:
        how = await found.push(client, Descriptor(media_type=media_type, digest=digest, size=size))
    click.echo(f"{how} {digest} {media_type}")
