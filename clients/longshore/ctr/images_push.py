"""``ctr images push``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from longshore.ctr.command import Failure, command
from longshore.ctr.registry_flags import FLAGS, Display, registry_options, to_options

if TYPE_CHECKING:
    from longshore.api.types.descriptor_pb2 import Descriptor
    from longshore.client.client import AsyncClient


@command(
    *FLAGS,
    click.option("--manifest", default="", help="Push the manifest with this digest instead of an image."),
    click.option("--manifest-type", default="application/vnd.oci.image.manifest.v1+json", show_default=True),
    click.option("--platform", "platforms", multiple=True, help="Only this one of an index."),
    click.option("--max-concurrent-uploaded-layers", type=int, default=3, show_default=True),
    click.option("--local", is_flag=True, hidden=True),
    click.option(
        "--allow-non-distributable-blobs", is_flag=True, help="Also layers meant to stay elsewhere."
    ),
    click.argument("name"),
    click.argument("image", required=False, default=""),
    name="push",
    bulk=True,
)
@registry_options
async def push(
    client: AsyncClient,
    flags: dict[str, Any],
    manifest: str,
    manifest_type: str,
    platforms: tuple[str, ...],
    max_concurrent_uploaded_layers: int,
    local: bool,
    allow_non_distributable_blobs: bool,
    name: str,
    image: str,
) -> None:
    """Send an image to a registry, under NAME; IMAGE is its name here, by default the same."""
    from longshore.client.oci import parse_platform

    if len(platforms) > 1:
        raise Failure("only one --platform at a time")
    try:
        platform = parse_platform(platforms[0]) if platforms else None
    except ValueError as error:
        raise Failure(str(error)) from None
    target = await described(client, manifest, manifest_type) if manifest else None
    with Display() as progress:
        digest = await client.images.push(
            name,
            source=image,
            target=target,
            platform=platform,
            foreign_layers=allow_non_distributable_blobs,
            uploads=max_concurrent_uploaded_layers,
            registry=to_options(flags, name),
            progress=progress,
        )
    click.echo(f"{name} {digest}")


async def described(client: AsyncClient, digest: str, media_type: str) -> Descriptor:
    from longshore.api.types.descriptor_pb2 import Descriptor

    info = await client.content.info(digest)
    return Descriptor(media_type=media_type, digest=digest, size=info.size)
