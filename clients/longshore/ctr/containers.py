"""``ctr containers``."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import click

from longshore.ctr import tables
from longshore.ctr.command import LIST, PASS_ON, REMOVE, Verbs, command, parse_labels
from longshore.ctr.flags import Wishes, create_container, with_container_options

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

    from longshore.client.client import AsyncClient
    from longshore.client.containers import Container


@click.group("containers", cls=Verbs, aliases={**LIST, **REMOVE})
def containers() -> None:
    """Manage containers: the records of what could run."""


@command(
    tables.quiet_option, tables.format_option, click.argument("filters", nargs=-1), name="list", plain=True
)
async def list_(client: AsyncClient, quiet: bool, form: str, filters: tuple[str, ...]) -> None:
    """List containers."""
    found = await client.containers.list(filters)
    if quiet:
        for container in found:
            click.echo(container.id)
        return
    rows = [(c.id, c.record.image or "-", c.record.runtime.name) for c in found]
    objects = [
        {"container": c.id, "image": c.record.image, "runtime": c.record.runtime.name, "labels": c.labels}
        for c in found
    ]
    tables.show(("CONTAINER", "IMAGE", "RUNTIME"), rows, form=form, padding=4, objects=objects)


def any_document(message: AnyMessage) -> dict[str, str]:
    document = {"type_url": message.type_url}
    if message.value:
        document["value"] = base64.b64encode(message.value).decode()
    return document


def document(container: Container) -> dict[str, Any]:
    """The record with the original's names; the specification decoded."""
    record = container.record
    options = any_document(record.runtime.options) if record.runtime.HasField("options") else None
    return {
        "ID": record.id,
        "Labels": dict(sorted(container.labels.items())) or None,
        "Image": record.image,
        "Runtime": {"Name": record.runtime.name, "Options": options},
        "SnapshotKey": record.snapshot_key,
        "Snapshotter": record.snapshotter,
        "CreatedAt": tables.rfc3339(record.created_at),
        "UpdatedAt": tables.rfc3339(record.updated_at),
        "Extensions": {key: any_document(value) for key, value in sorted(record.extensions.items())} or None,
        **({"SandboxID": record.sandbox} if record.sandbox else {}),
        "Spec": json.loads(record.spec.value) if record.spec.value else None,
    }


@command(
    click.option("--spec", "only_spec", is_flag=True, help="Only the runtime specification."),
    click.argument("id"),
    name="info",
    plain=True,
)
async def info(client: AsyncClient, only_spec: bool, id: str) -> None:
    """Show one container."""
    found = document(await client.containers.get(id))
    tables.show_json(found["Spec"] if only_spec else found)


@command(
    click.option("--keep-snapshot", is_flag=True, help="Leave its snapshot."),
    click.argument("ids", nargs=-1, required=True),
    name="delete",
    plain=True,
)
async def delete(client: AsyncClient, keep_snapshot: bool, ids: tuple[str, ...]) -> int:
    """Remove containers that don't run, with their snapshots."""
    from longshore.api.errors import Error
    from longshore.ctr.command import warn

    failed = 0
    for id in ids:
        try:
            container = await client.containers.get(id)
            try:
                await (await container.task()).delete()
            except Error:
                pass  # it has none, or it runs: delete says so
            await container.delete(keep_snapshot=keep_snapshot)
        except Error as error:
            warn(f"failed to delete container {id!r}: {error.message}")
            failed = 1
    return failed


@command(click.argument("id"), click.argument("labels", nargs=-1, required=True), name="label", plain=True)
async def label(client: AsyncClient, id: str, labels: tuple[str, ...]) -> None:
    """Set labels; an empty value removes one."""
    container = await client.containers.get(id)
    await container.label(parse_labels(labels))
    click.echo(tables.labels(container.labels))


@command(
    with_container_options,
    click.option("--pid-file", default="", hidden=True),
    click.argument("words", nargs=-1, metavar="IMAGE|ROOTFS ID [CMD...]"),
    name="create",
    context_settings=PASS_ON,
)
async def create(client: AsyncClient, /, words: tuple[str, ...], **values: Any) -> None:
    """Record a container; `ctr tasks start` runs it."""
    await create_container(client, Wishes(values), words)


@command(
    click.option("--rw", is_flag=True, help="With what the container has written."),
    click.option("--image", is_flag=True, help="With the image that it was made from."),
    click.option("--task", is_flag=True, help="With what runs in it, by criu."),
    click.argument("id"),
    click.argument("ref"),
    name="checkpoint",
)
async def checkpoint(client: AsyncClient, rw: bool, image: bool, task: bool, id: str, ref: str) -> None:
    """Save a container as the image REF; what runs is paused meanwhile."""
    await (await client.containers.get(id)).checkpoint(ref, rw=rw, image=image, task=task)


@command(
    click.option("--rw", is_flag=True, help="With what the container had written."),
    click.option("--live", is_flag=True, help="Go on with what ran in it, by criu."),
    click.argument("id"),
    click.argument("ref"),
    name="restore",
)
async def restore(client: AsyncClient, rw: bool, live: bool, id: str, ref: str) -> int:
    """Make a container of a checkpoint, and run it; the exit status is its own."""
    from longshore.ctr.run import chosen_io, see_through

    container = await client.containers.restore(id, ref, rw=rw)
    terminal = bool(container.spec["process"].get("terminal"))
    io = chosen_io(tty=terminal, null_io=False, log_uri="")
    try:
        task = await container.create_task(io=io, checkpoint=ref if live else "")
    except BaseException:
        await container.delete()
        raise
    wishes = Wishes({"pid_file": "", "detach": False, "tty": terminal})
    return await see_through(container, task, wishes, remove=False)


for verb in (list_, info, delete, label, create, checkpoint, restore):
    containers.add_command(verb)
