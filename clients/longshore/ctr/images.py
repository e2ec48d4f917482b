"""``ctr images``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import click

from longshore.api.errors import DataLoss, InvalidArgument, NotFound
from longshore.client import defaults
from longshore.ctr import tables
from longshore.ctr.command import LIST, REMOVE, Failure, Verbs, command, parse_labels
from longshore.ctr.images_mount import mount, unmount
from longshore.ctr.images_pull import pull
from longshore.ctr.images_push import push

if TYPE_CHECKING:
    from longshore.api.types.descriptor_pb2 import Descriptor
    from longshore.client.client import AsyncClient
    from longshore.client.images import Image

snapshotter_option = click.option(
    "--snapshotter", envvar="CONTAINERD_SNAPSHOTTER", default=defaults.SNAPSHOTTER, show_default=True
)


@click.group("images", cls=Verbs, aliases={**LIST, **REMOVE})
def images() -> None:
    """Manage images."""


@command(
    tables.quiet_option, tables.format_option, click.argument("filters", nargs=-1), name="list", plain=True
)
async def list_(client: AsyncClient, quiet: bool, form: str, filters: tuple[str, ...]) -> None:
    """List images."""
    found = await client.images.list(filters)
    if quiet:
        for image in found:
            click.echo(image.name)
        return
    rows, objects = [], []
    for image in found:
        size, platforms = await measures(image)
        target = image.target
        rows.append(
            (
                image.name,
                target.media_type,
                target.digest,
                tables.binary_size(size),
                ",".join(platforms) or "-",
                tables.labels(image.labels),
            )
        )
        objects.append(
            {
                "ref": image.name,
                "type": target.media_type,
                "digest": target.digest,
                "size": size,
                "platforms": platforms,
                "labels": image.labels,
            }
        )
    tables.show(("REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"), rows, form=form, objects=objects)


async def measures(image: Image) -> tuple[int, list[str]]:
    """Size and platforms, as far as the blobs are here and can be read."""
    try:
        return await image.size(), await image.platforms()
    except (NotFound, DataLoss):
        return 0, []


@command(
    tables.quiet_option,
    snapshotter_option,
    tables.format_option,
    click.argument("filters", nargs=-1),
    name="check",
    plain=True,
)
async def check(
    client: AsyncClient, quiet: bool, snapshotter: str, form: str, filters: tuple[str, ...]
) -> None:
    """See whether images are whole and unpacked."""
    rows = []
    for image in await client.images.list(filters):
        needed = await needed_blobs(image)
        have = [blob for blob in needed if await present(client, blob.digest)]
        size, total = sum(b.size for b in have), sum(b.size for b in needed)
        whole = len(have) == len(needed) and bool(needed)
        if quiet:
            if whole:
                click.echo(image.name)
            continue
        status = f"{'complete' if whole else 'incomplete'} ({len(have)}/{len(needed)})"
        unpacked = str(whole and await is_unpacked(image, snapshotter)).lower()
        sizes = f"{tables.binary_size(size)}/{tables.binary_size(total)}"
        rows.append((image.name, image.target.media_type, image.target.digest, status, sizes, unpacked))
    if not quiet:
        tables.show(("REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED"), rows, form=form)


async def needed_blobs(image: Image) -> list[Descriptor]:
    """What a container needs of an image: the configuration and the layers of the host's manifest; [] if unknown."""
    from longshore.client.oci import children

    try:
        return children(await image.manifest())
    except (NotFound, DataLoss):
        return []


async def is_unpacked(image: Image, snapshotter: str) -> bool:
    try:
        return await image.is_unpacked(snapshotter)
    except DataLoss:
        return False


async def present(client: AsyncClient, digest: str) -> bool:
    try:
        await client.content.info(digest)
    except (NotFound, InvalidArgument):
        return False
    return True


def opened(path: str, mode: str) -> IO[bytes]:
    if path == "-":
        return sys.stdin.buffer if mode == "rb" else sys.stdout.buffer
    try:
        file: IO[bytes] = open(path, mode)  # noqa: SIM115 (closed by the caller's with)
    except OSError as error:
        raise Failure(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    return file


@contextmanager
def written(path: str) -> Iterator[IO[bytes]]:
    """For writing all or nothing: a new file takes its place at the end. "-", pipes and devices are written to."""
    if path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
        with opened(path, "wb") as file:
            yield file
        return
    target = os.path.realpath(path)
    partial = f"{target}.partial-{os.getpid()}"
    with opened(partial, "wb") as file:
        try:
            yield file
            file.flush()
            os.replace(partial, target)
        except BaseException:
            os.unlink(partial)
            raise


@command(
    click.option("--base-name", default="", help="Goes before names without one."),
    click.option("--digests", is_flag=True, help="Also record each image under its digest."),
    click.option("--skip-digest-for-named", is_flag=True, help="With --digests: only those without a name."),
    click.option("--index-name", default="", help="Also record the archive's index."),
    click.option("--all-platforms", is_flag=True, help="Accepted: everything in the archive is stored."),
    click.option("--platform", default="", help="Unpack for another platform than the host's."),
    click.option("--no-unpack", is_flag=True, help="Only store."),
    click.option("--compress-blobs", is_flag=True, hidden=True),
    click.option("--discard-unpacked-layers", is_flag=True, help="Once unpacked, let the layers' blobs go."),
    click.option("--local", is_flag=True, hidden=True),
    click.option("--sync-fs", is_flag=True, hidden=True),
    snapshotter_option,
    click.argument("archive", metavar="FILE|-"),
    name="import",
    bulk=True,
)
async def import_(
    client: AsyncClient,
    base_name: str,
    digests: bool,
    skip_digest_for_named: bool,
    index_name: str,
    all_platforms: bool,
    platform: str,
    no_unpack: bool,
    compress_blobs: bool,
    discard_unpacked_layers: bool,
    local: bool,
    sync_fs: bool,
    snapshotter: str,
    archive: str,
) -> None:
    """Read images from an OCI or Docker archive, and unpack them."""
    from longshore.client.oci import parse_platform
    from longshore.ctr.content_edit import drop_layer_references

    if compress_blobs:
        raise Failure("--compress-blobs is not built yet", "blobs are stored as the archive has them")
    async with client.leased() as leased:
        with opened(archive, "rb") as file:
            found = await leased.images.import_archive(
                file,
                base_name=base_name,
                digests=digests,
                skip_digest_for_named=skip_digest_for_named,
                index_name=index_name,
            )
        if not found:
            raise Failure("the archive names no image", "give it a name with --base-name or --digests")
        for image in found:
            if no_unpack or image.name == index_name:
                click.echo(f"saved {image.name} ({image.target.digest})")
                continue
            if platform:
                image.platform = parse_platform(platform)
            click.echo(f"unpacking {image.name} ({image.target.digest})...", nl=False)
            await image.unpack(snapshotter)
            click.echo("done")
            if discard_unpacked_layers:
                for blob in await image.blobs():
                    await drop_layer_references(leased, await leased.content.info(blob.digest))


@command(
    click.option("--platform", default="", help="Only this one of an index; by default all that are here."),
    click.option("--all-platforms", is_flag=True, help="Every platform of an index: all must be here."),
    click.option("--skip-manifest-json", is_flag=True, help="Leave out what Docker reads."),
    click.option("--skip-non-distributable", is_flag=True, help="Leave out layers meant to stay elsewhere."),
    click.option("--local", is_flag=True, hidden=True),
    click.argument("archive", metavar="FILE|-"),
    click.argument("names", nargs=-1, required=True),
    name="export",
    bulk=True,
)
async def export(
    client: AsyncClient,
    platform: str,
    all_platforms: bool,
    skip_manifest_json: bool,
    skip_non_distributable: bool,
    local: bool,
    archive: str,
    names: tuple[str, ...],
) -> None:
    """Write images as an archive that is OCI layout and Docker archive in one."""
    from longshore.client.oci import parse_platform

    for name in names:
        await client.images.get(name)  # complain before a file is made
    with written(archive) as file:
        await client.images.export_archive(
            names,
            file,
            platform=parse_platform(platform) if platform else None,
            all_platforms=all_platforms,
            docker_manifest=not skip_manifest_json,
            foreign_layers=not skip_non_distributable,
        )


@command(
    click.option("--force", is_flag=True, help="Replace an existing target."),
    click.option("--skip-reference-check", is_flag=True, help="Take names that no registry would."),
    click.option("--local", is_flag=True, hidden=True),
    click.argument("source"),
    click.argument("targets", nargs=-1, required=True),
    name="tag",
    plain=True,
)
async def tag(
    client: AsyncClient,
    force: bool,
    skip_reference_check: bool,
    local: bool,
    source: str,
    targets: tuple[str, ...],
) -> None:
    """Give an image further names."""
    from longshore.client import references

    for target in [] if skip_reference_check else targets:
        references.parse(target)
    for target in targets:
        await client.images.tag(source, target, replace=force)
        click.echo(target)


@command(
    click.option("--sync", is_flag=True, help="Return after the garbage collection that follows."),
    click.argument("names", nargs=-1, required=True),
    name="delete",
    plain=True,
)
async def delete(client: AsyncClient, sync: bool, names: tuple[str, ...]) -> None:
    """Remove images by name."""
    for place, name in enumerate(names):
        await client.images.delete(name, sync=sync and place == len(names) - 1)
        click.echo(name)


@command(
    click.option("-r", "--replace-all", is_flag=True, help="Remove the other labels."),
    click.argument("name"),
    click.argument("labels", nargs=-1, required=True),
    name="label",
    plain=True,
)
async def label(client: AsyncClient, replace_all: bool, name: str, labels: tuple[str, ...]) -> None:
    """Set labels; an empty value removes one."""
    wanted = parse_labels(labels)
    if replace_all:
        wanted = {**dict.fromkeys((await client.images.get(name)).labels, ""), **wanted}
    image = await client.images.label(name, wanted)
    click.echo(tables.labels(image.labels))


@command(
    click.option("--content", "whole", is_flag=True, help="Show manifest and configuration too."),
    click.argument("name"),
    name="inspect",
    plain=True,
)
async def inspect(client: AsyncClient, whole: bool, name: str) -> None:
    """Show an image's target, and with --content what it says."""
    image = await client.images.get(name)
    document: dict[str, object] = {
        "Name": image.name,
        "Target": {
            "mediaType": image.target.media_type,
            "digest": image.target.digest,
            "size": image.target.size,
        },
        "Labels": image.labels,
    }
    if whole:
        document["Manifest"] = await image.manifest()
        document["Config"] = await image.config()
    tables.show_json(document)


@command(snapshotter_option, click.argument("name"), name="unpack")
async def unpack(client: AsyncClient, snapshotter: str, name: str) -> None:
    """Make an image's layers snapshots, and print the topmost."""
    click.echo(await (await client.images.get(name)).unpack(snapshotter))


@command(snapshotter_option, tables.format_option, click.argument("name"), name="usage", plain=True)
async def usage(client: AsyncClient, snapshotter: str, form: str, name: str) -> None:
    """Show what an image's snapshots take, from the lowest layer up."""
    store = client.snapshots(snapshotter)
    rows, objects = [], []
    for layer, key in await (await client.images.get(name)).layers():
        used = await store.usage(key)
        rows.append((layer.digest, key, tables.binary_size(used.size), str(used.inodes)))
        objects.append({"layer": layer.digest, "key": key, "size": used.size, "inodes": used.inodes})
    tables.show(("LAYER", "KEY", "SIZE", "INODES"), rows, form=form, objects=objects)


@command(
    click.option("--all", "every", is_flag=True, help="All that no container is made from."), name="prune"
)
async def prune(client: AsyncClient, every: bool) -> None:
    """Remove images that no container is made from, and collect what was theirs."""
    if not every:
        raise Failure("nothing to prune without --all", "`images rm NAME` removes one")
    used = {container.record.image for container in await client.containers.list()}
    names = [image.name for image in await client.images.list() if image.name not in used]
    for place, name in enumerate(names):
        await client.images.delete(name, sync=place == len(names) - 1)
        click.echo(name)


@command(
    click.option("--uncompress", is_flag=True, help="Make layers plain tars."),
    click.option("--oci", "oci_types", is_flag=True, help="Docker's media types become OCI's."),
    click.option("--platform", default="", help="Another platform than the host's."),
    click.option("--all-platforms", is_flag=True, help="Every platform: all must be here."),
    click.argument("source"),
    click.argument("target"),
    name="convert",
    bulk=True,
)
async def convert(
    client: AsyncClient,
    uncompress: bool,
    oci_types: bool,
    platform: str,
    all_platforms: bool,
    source: str,
    target: str,
) -> None:
    """Store an image in another form, and print its digest."""
    from longshore.client.oci import parse_platform

    image = await client.images.convert(
        source,
        target,
        uncompress=uncompress,
        oci_types=oci_types,
        platform=parse_platform(platform) if platform else None,
        all_platforms=all_platforms,
    )
    click.echo(image.target.digest)


for verb in (
    *(list_, check, usage, inspect, import_, export, pull, push, tag, label, delete, prune, convert),
    *(unpack, mount, unmount),
):
    images.add_command(verb)
images.aliases["i"] = "inspect"
