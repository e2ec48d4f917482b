"""``ctr images pull``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from longshore.ctr.command import Failure, command, parse_labels
from longshore.ctr.registry_flags import FLAGS, Display, registry_options, to_options

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient


@command(
    *FLAGS,
    click.option("--snapshotter", envvar="CONTAINERD_SNAPSHOTTER", default="overlayfs", show_default=True),
    click.option("--label", "labels", multiple=True, help="key=value for the image; may be repeated."),
    click.option("--platform", "platforms", multiple=True, help="Another platform than the host's."),
    click.option("--all-platforms", is_flag=True, help="Fetch and unpack every platform."),
    click.option(
        "--all-metadata", is_flag=True, help="Accepted: manifests of other platforms aren't needed."
    ),
    click.option("--skip-metadata", is_flag=True, hidden=True),
    click.option("--print-chainid", is_flag=True, help="Print the name of the topmost snapshot."),
    click.option("--max-concurrent-downloads", type=int, default=3, show_default=True),
    click.option("--no-unpack", is_flag=True, help="Only store."),
    click.option("--local", is_flag=True, hidden=True),
    click.option("--sync-fs", is_flag=True, hidden=True),
    click.argument("name"),
    name="pull",
    bulk=True,
)
@registry_options
async def pull(
    client: AsyncClient,
    flags: dict[str, Any],
    snapshotter: str,
    labels: tuple[str, ...],
    platforms: tuple[str, ...],
    all_platforms: bool,
    all_metadata: bool,
    skip_metadata: bool,
    print_chainid: bool,
    max_concurrent_downloads: int,
    no_unpack: bool,
    local: bool,
    sync_fs: bool,
    name: str,
) -> None:
    """Fetch an image from a registry, and unpack it.

    What an interrupted pull left is used by the next one.
    """
    from longshore.client.oci import parse_platform

    if len(platforms) > 1:
        raise Failure("only one --platform at a time", "take --all-platforms for all of them")
    try:
        platform = parse_platform(platforms[0]) if platforms else None
    except ValueError as error:
        raise Failure(str(error)) from None
    with Display() as progress:
        image = await client.images.pull(
            name,
            platform=platform,
            all_platforms=all_platforms,
            snapshotter=snapshotter,
            unpack=not no_unpack,
            labels=parse_labels(labels),
            downloads=max_concurrent_downloads,
            registry=to_options(flags, name),
            progress=progress,
        )
    click.echo(f"{image.name} {image.target.digest}")
    if print_chainid:
        click.echo(f"image chain ID: {await image.chain_id()}")
