"""``ctr snapshots``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from longshore.api.errors import NotFound
from longshore.client import defaults
from longshore.ctr import tables
from longshore.ctr.command import LIST, REMOVE, Verbs, command, parse_labels

if TYPE_CHECKING:
    from longshore.api.types.mount_pb2 import Mount
    from longshore.client.client import AsyncClient
    from longshore.client.snapshots import SnapshotInfo, Snapshots


@click.group(
    "snapshots",
    cls=Verbs,
    aliases={**LIST, **REMOVE, "m": "mounts", "mount": "mounts"},
)
@click.option(
    "--snapshotter", envvar="CONTAINERD_SNAPSHOTTER", default=defaults.SNAPSHOTTER, show_default=True
)
@click.pass_context
def snapshots(context: click.Context, snapshotter: str) -> None:
    """Manage snapshots of one snapshotter."""
    context.meta["snapshotter"] = snapshotter


def chosen(client: AsyncClient) -> Snapshots:
    return client.snapshots(click.get_current_context().meta["snapshotter"])


def kind(info: SnapshotInfo) -> str:
    from longshore.client.snapshots import KIND_NAMES

    return KIND_NAMES.get(info.kind, "Unknown")


@command(tables.format_option, click.argument("filters", nargs=-1), name="list", plain=True)
async def list_(client: AsyncClient, form: str, filters: tuple[str, ...]) -> None:
    """List snapshots."""
    found = await chosen(client).list(filters)
    rows = [(info.name, info.parent, kind(info)) for info in found]
    objects = [{"key": i.name, "parent": i.parent, "kind": kind(i), "labels": dict(i.labels)} for i in found]
    tables.show(("KEY", "PARENT", "KIND"), rows, form=form, objects=objects)


@command(click.argument("key"), name="info", plain=True)
async def info(client: AsyncClient, key: str) -> None:
    """Show one snapshot."""
    found = await chosen(client).stat(key)
    document: dict[str, object] = {"Kind": kind(found), "Name": found.name}
    if found.parent:
        document["Parent"] = found.parent
    if found.labels:
        document["Labels"] = dict(sorted(found.labels.items()))
    document["Created"] = tables.rfc3339(found.created_at)
    document["Updated"] = tables.rfc3339(found.updated_at)
    tables.show_json(document)


@command(
    click.option("-b", "bytes_", is_flag=True, help="Sizes in bytes."),
    tables.format_option,
    click.argument("keys", nargs=-1),
    name="usage",
    plain=True,
)
async def usage(client: AsyncClient, bytes_: bool, form: str, keys: tuple[str, ...]) -> None:
    """Show what snapshots take, each without its parents."""
    store = chosen(client)
    names = list(keys) or [found.name for found in await store.list()]
    rows, objects = [], []
    for name in names:
        used = await store.usage(name)
        size = str(used.size) if bytes_ else tables.binary_size(used.size)
        rows.append((name, size, str(used.inodes)))
        objects.append({"key": name, "size": used.size, "inodes": used.inodes})
    tables.show(("KEY", "SIZE", "INODES"), rows, form=form, objects=objects)


def branches(children: Mapping[str, Sequence[str]], name: str, depth: int = 0) -> Iterator[str]:
    """A snapshot and what stands on it, deeper ones further to the right."""
    yield f"{' ' * (2 * (depth - 1))}  \\_ {name}" if depth else f" {name}"
    for child in children.get(name, ()):
        yield from branches(children, child, depth + 1)


@command(name="tree", plain=True)
async def tree(client: AsyncClient) -> None:
    """Show snapshots below their parents."""
    children: dict[str, list[str]] = {}
    for found in await chosen(client).list():
        children.setdefault(found.parent, []).append(found.name)
    for root in children.get("", ()):
        for text in branches(children, root):
            click.echo(text)


def mount_lines(target: str, mounts: Sequence[Mount]) -> list[str]:
    """Shell commands that mount a snapshot."""
    return [
        f"mount -t {mount.type} {mount.source} {target}{mount.target} -o {','.join(mount.options)}"
        for mount in mounts
    ]


def show_mounts(target: str, mounts: Sequence[Mount], as_json: bool) -> None:
    if as_json:
        tables.show_json(
            [
                {"Type": m.type, "Source": m.source, "Target": m.target, "Options": list(m.options)}
                for m in mounts
            ]
        )
    elif target:
        for text in mount_lines(target, mounts):
            click.echo(text)


@command(click.argument("target"), click.argument("key"), name="mounts", plain=True)
async def mounts(client: AsyncClient, target: str, key: str) -> None:
    """Print how to mount a snapshot."""
    show_mounts(target, await chosen(client).mounts(key), False)


_MAKING = (
    click.option("-t", "--target", default="", help="Print how to mount it there."),
    click.option("--mounts", "as_json", is_flag=True, help="Print its mounts as JSON."),
    click.argument("key"),
    click.argument("parent", default=""),
)


@command(*_MAKING, name="prepare", plain=True)
async def prepare(client: AsyncClient, target: str, as_json: bool, key: str, parent: str) -> None:
    """Make a writable snapshot on a committed parent."""
    show_mounts(target, await chosen(client).prepare(key, parent, gc_root()), as_json)


@command(*_MAKING, name="view", plain=True)
async def view(client: AsyncClient, target: str, as_json: bool, key: str, parent: str) -> None:
    """Make a read-only snapshot."""
    show_mounts(target, await chosen(client).view(key, parent, gc_root()), as_json)


def gc_root() -> dict[str, str]:
    """Made by hand, a snapshot belongs to no image and no lease: keep the collector away from it."""
    from datetime import UTC, datetime

    return {"containerd.io/gc.root": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


@command(click.argument("key"), click.argument("active"), name="commit", plain=True)
async def commit(client: AsyncClient, key: str, active: str) -> None:
    """Freeze the snapshot ACTIVE under the name KEY."""
    await chosen(client).commit(key, active, gc_root())


@command(click.argument("keys", nargs=-1, required=True), name="delete", plain=True)
async def delete(client: AsyncClient, keys: tuple[str, ...]) -> None:
    """Remove snapshots."""
    for key in keys:
        await chosen(client).remove(key)


@command(click.argument("key"), click.argument("labels", nargs=-1, required=True), name="label", plain=True)
async def label(client: AsyncClient, key: str, labels: tuple[str, ...]) -> None:
    """Set labels; an empty value removes one."""
    await chosen(client).label(key, parse_labels(labels))


@command(
    click.option("--media-type", default="", help="Of the layer; tar+gzip by default."),
    click.option("--ref", default="", help="The ingest's name."),
    click.option("--keep", is_flag=True, help="Keep the blob (gc.root)."),
    click.option("--label", "labels", multiple=True, help="key=value on the blob."),
    click.argument("key"),
    click.argument("other", default=""),
    name="diff",
)
async def diff(
    client: AsyncClient, media_type: str, ref: str, keep: bool, labels: tuple[str, ...], key: str, other: str
) -> None:
    """Write what a snapshot changed as a layer to standard output; against its parent, or OTHER."""
    import secrets
    import sys

    store = chosen(client)
    marks = {**parse_labels(labels), **(gc_root() if keep else {})}
    if other:
        lower_key, upper_key = key, other
    else:
        lower_key, upper_key = (await store.stat(key)).parent, key
    async with client.leased() as leased:
        snapshots = leased.snapshots(store.snapshotter)
        token = secrets.token_hex(4)
        upper_made = (await store.stat(upper_key)).kind == 3
        lower = await snapshots.view(f"{lower_key}-lower-view-{token}", lower_key) if lower_key else []
        upper = (
            await snapshots.view(f"{upper_key}-view-{token}", upper_key)
            if upper_made
            else await snapshots.mounts(upper_key)
        )
        try:
            layer = await leased.diffs.compare(lower, upper, media_type=media_type, ref=ref, labels=marks)
            async for block in leased.content.chunks(layer.digest):
                sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
        finally:
            if lower_key:
                await snapshots.remove(f"{lower_key}-lower-view-{token}")
            if upper_made:
                await snapshots.remove(f"{upper_key}-view-{token}")


@command(
    click.option("--sync-fs", is_flag=True, hidden=True),
    click.option("--snapshotter", default="", help="The same as before the verb."),
    click.argument("digest"),
    name="unpack",
)
async def unpack(client: AsyncClient, sync_fs: bool, snapshotter: str, digest: str) -> None:
    """Make snapshots of the layers of the images whose manifest or index has this digest."""
    found = await client.images.list([f"target.digest=={digest}"])
    if not found:
        raise NotFound(f"image with the digest {digest}: not found")
    for image in found:
        click.echo(f"unpacking {image.name} ({digest})...", nl=False)
        await image.unpack(snapshotter or chosen(client).snapshotter)
        click.echo("done")


for verb in (list_, info, usage, tree, mounts, prepare, view, commit, delete, label, diff, unpack):
    snapshots.add_command(verb)
