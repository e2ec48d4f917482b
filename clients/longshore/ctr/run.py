"""``ctr run``."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from longshore.api.errors import NotFound
from longshore.ctr import tables
from longshore.ctr.command import PASS_ON, Failure, command
from longshore.ctr.flags import Wishes, create_container, with_container_options

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.client.containers import Container
    from longshore.client.io import IO
    from longshore.client.tasks import Task


def chosen_io(*, tty: bool, null_io: bool, log_uri: str) -> IO:
    """Which streams a command line asks for. Raises Failure when it asks for two kinds."""
    from longshore.client.io import LogURI, Null, Pipes

    if tty and (null_io or log_uri):
        raise Failure("a terminal and --null-io or --log-uri exclude each other")
    if null_io:
        return Null()
    if log_uri:
        return LogURI(log_uri if "://" in log_uri else f"file://{log_uri}")
    return Pipes(stdin=True, stdout=True, stderr=not tty, terminal=tty)


def write_pid(path: str, pid: int) -> None:
    with open(path, "w") as file:
        file.write(str(pid))


io_options = (
    click.option("--null-io", is_flag=True, help="No streams."),
    click.option("--log-uri", default="", help="A file, or file:///path, or binary:///logger."),
    click.option("--fifo-dir", default="", help="Where the streams' pipes are made."),
    click.option("--pid-file", default="", help="Write the pid there."),
    click.option("-d", "--detach", is_flag=True, help="Return when it runs."),
)


@command(
    click.option("--rm", "remove", is_flag=True, help="Remove the container when it ends."),
    click.option("--dump-config", is_flag=True, help="Print the runtime specification and run nothing."),
    click.option("--sync-fs", is_flag=True, hidden=True),
    *io_options,
    with_container_options,
    click.argument("words", nargs=-1, metavar="IMAGE|ROOTFS ID [CMD...]"),
    name="run",
    context_settings=PASS_ON,
)
async def run(
    client: AsyncClient, /, words: tuple[str, ...], remove: bool, dump_config: bool, **values: Any
) -> int:
    """Run a container; the exit status is its own.

    Without -d our standard streams are its own, and signals go to it.
    """
    wishes = Wishes(values)
    if remove and wishes.detach:
        raise Failure("--detach and --rm exclude each other")
    if wishes.fifo_dir:
        client.fifo_dir = wishes.fifo_dir
    io = chosen_io(tty=wishes.tty, null_io=wishes.null_io, log_uri=wishes.log_uri)
    container = await create_container(client, wishes, words)
    if dump_config:
        tables.show_json(container.spec)
        await container.delete()
        return 0
    try:
        task = await container.create_task(io=io)
    except BaseException:
        if remove:
            await container.delete()
        raise
    return await see_through(container, task, wishes, remove)


async def see_through(container: Container, task: Task, wishes: Wishes, remove: bool) -> int:
    """Start, and unless detached stay until the end and clean up."""
    from longshore.ctr.attach import converse

    try:
        if wishes.pid_file:
            write_pid(wishes.pid_file, task.pid)
        if wishes.detach:
            await task.start()
            task.detach()
            return 0
        status = await converse(task, terminal=wishes.tty)
        await task.delete()
        return status.code
    except BaseException:
        if not wishes.detach:
            with suppress(NotFound):
                await task.destroy()
        raise
    finally:
        if remove:
            await container.delete()
