"""``ctr images mount`` and ``ctr images unmount``: an image's files at a folder of the host."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from longshore.client import defaults
from longshore.ctr.command import Failure, command
from longshore.ctr.leases import duration

if TYPE_CHECKING:
    from longshore.api.types.mount_pb2 import Mount
    from longshore.client.client import AsyncClient

LEASE_LABEL = "longshore.io/mounted-at"

snapshotter_option = click.option(
    "--snapshotter", envvar="CONTAINERD_SNAPSHOTTER", default=defaults.SNAPSHOTTER, show_default=True
)

# The original takes the flags of its registry commands here, too, and does nothing with them.
unused = (
    click.option("-k", "--skip-verify", is_flag=True, hidden=True, expose_value=False),
    *(
        click.option(name, is_flag=True, hidden=True, expose_value=False)
        for name in ("--plain-http", "--http-dump", "--http-trace")
    ),
    click.option("-u", "--user", hidden=True, expose_value=False),
    *(
        click.option(name, hidden=True, expose_value=False)
        for name in ("--refresh", "--hosts-dir", "--tlscacert", "--tlscert", "--tlskey", "--label")
    ),
)


@command(
    *unused,
    click.option("--rw", "writable", is_flag=True, help="Let it be written to."),
    click.option("--platform", default="", help="Another platform than the host's."),
    click.option("--expiration", default="24h", show_default=True, help="How long the snapshot is kept."),
    snapshotter_option,
    click.argument("name"),
    click.argument("target"),
    name="mount",
)
async def mount(
    client: AsyncClient,
    writable: bool,
    platform: str,
    expiration: str,
    snapshotter: str,
    name: str,
    target: str,
) -> None:
    """Mount an image at a folder; the snapshot for it is called like the folder."""
    from longshore.client.oci import parse_platform

    target = folder(target)
    image = await client.images.get(name, platform=parse_platform(platform) if platform else None)
    lease = await client.leases.create(expires=duration(expiration) or None, labels={LEASE_LABEL: target})
    leased = client.with_lease(lease.id)
    snapshots = leased.snapshots(snapshotter)
    try:
        image = await leased.images.get(name, platform=image.platform)
        parent = await image.unpack(snapshotter)
        make = snapshots.prepare if writable else snapshots.view
        mounts = await make(target, parent)
        try:
            mount_there(mounts, target)
        except OSError:
            await snapshots.remove(target)
            raise
    except BaseException:
        await client.leases.delete(lease.id)
        raise
    click.echo(target)


@command(
    *unused,
    click.option("--rm", "remove", is_flag=True, help="Remove the snapshot, too."),
    snapshotter_option,
    click.argument("target"),
    name="unmount",
)
async def unmount(client: AsyncClient, remove: bool, snapshotter: str, target: str) -> None:
    """Unmount what `images mount` mounted."""
    from longshore.linux.mounts import unmount_all

    target = folder(target)
    unmount_all(target)
    if remove:
        await client.snapshots(snapshotter).remove(target)
        for lease in await client.leases.list([f'labels."{LEASE_LABEL}"=="{target}"']):
            await client.leases.delete(lease.id)
    click.echo(target)


def folder(path: str) -> str:
    """The absolute path of an existing folder. Raises Failure."""
    if not os.path.isdir(path):
        raise Failure(f"{path} is no directory", "make it first")
    return os.path.realpath(path)


def mount_there(mounts: Sequence[Mount], target: str) -> None:
    """Raises OSError; nothing is mounted then."""
    from longshore.linux import mounts as linux

    linux.mount_all([linux.Mount(m.type, m.source, tuple(m.options), m.target) for m in mounts], target)
