"""``ctr tasks``."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from longshore.api.errors import Error, NotFound
from longshore.ctr import tables
from longshore.ctr.command import LIST, PASS_ON, REMOVE, Failure, Verbs, command, warn
from longshore.ctr.documents import document
from longshore.ctr.run import chosen_io, io_options, write_pid

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from longshore.client.client import AsyncClient
    from longshore.client.tasks import Process

STOP_SIGNAL_LABEL = "io.containerd.image.config.stop-signal"


@click.group(
    "tasks",
    cls=Verbs,
    aliases={**LIST, **REMOVE, "metric": "metrics"},
)
def tasks() -> None:
    """Manage tasks: the containers that run."""


def status_name(number: int) -> str:
    from longshore.api.types.task.task_pb2 import Status

    return next((name for name, value in Status.items() if value == number), "UNKNOWN")


@command(tables.quiet_option, tables.format_option, name="list", plain=True)
async def list_(client: AsyncClient, quiet: bool, form: str) -> None:
    """List tasks."""
    found = await client.tasks.list()
    # The id of a task is its container's; old daemons fill in only one of the two fields.
    if quiet:
        for task in found:
            click.echo(task.id or task.container_id)
        return
    rows = [(t.id or t.container_id, str(t.pid), status_name(t.status)) for t in found]
    objects = [{"task": t.id or t.container_id, "pid": t.pid, "status": status_name(t.status)} for t in found]
    tables.show(("TASK", "PID", "STATUS"), rows, form=form, padding=4, objects=objects)


@command(
    *io_options, click.option("--no-pivot", is_flag=True, hidden=True), click.argument("id"), name="start"
)
async def start(client: AsyncClient, /, id: str, **values: Any) -> int:
    """Run a container that was created."""
    from longshore.ctr.flags import Wishes
    from longshore.ctr.run import see_through

    container = await client.containers.get(id)
    terminal = bool(container.spec["process"].get("terminal"))
    wishes = Wishes({**values, "tty": terminal})
    if wishes.fifo_dir:
        client.fifo_dir = wishes.fifo_dir
    io = chosen_io(tty=terminal, null_io=wishes.null_io, log_uri=wishes.log_uri)
    task = await container.create_task(io=io)
    return await see_through(container, task, wishes, remove=False)


@command(
    *(option for option in io_options),
    click.option("--cwd", default="", help="Working directory."),
    click.option("-t", "--tty", is_flag=True, help="Give it a terminal."),
    click.option("--exec-id", default="", help="A name for the process (required by the original)."),
    click.option("-u", "--user", default="", help="Name or number, with :group."),
    click.option("--env", multiple=True, help="NAME=value."),
    click.argument("id"),
    click.argument("words", nargs=-1, required=True, metavar="CMD..."),
    name="exec",
    context_settings=PASS_ON,
)
async def exec_(client: AsyncClient, /, id: str, words: tuple[str, ...], **values: Any) -> int:
    """Run another process in a container."""
    from longshore.client.spec import merge_env
    from longshore.ctr.attach import converse

    container = await client.containers.get(id)
    task = await container.task()
    if values["fifo_dir"]:
        client.fifo_dir = values["fifo_dir"]
    process = {**container.spec["process"], "args": list(words), "terminal": values["tty"]}
    process["env"] = merge_env(process.get("env", []), values["env"])
    if values["cwd"]:
        process["cwd"] = values["cwd"]
    if values["user"]:
        process["user"] = await container.user(values["user"])
    io = chosen_io(tty=values["tty"], null_io=values["null_io"], log_uri=values["log_uri"])
    started = await task.exec(process, io=io, exec_id=values["exec_id"])
    if values["detach"]:
        await started.start()
        if values["pid_file"]:
            write_pid(values["pid_file"], started.pid)
        started.detach()
        return 0
    try:
        status = await converse(started, terminal=values["tty"])
        await started.delete()
    except BaseException:
        await started.destroy()
        raise
    return status.code


@command(click.argument("id"), name="attach")
async def attach(client: AsyncClient, id: str) -> int:
    """Join the streams of a running container; its exit status is ours."""
    from longshore.ctr.attach import converse

    task = await client.tasks.get(id, attach=True)
    if task.streams is None:
        raise Failure(f"the streams of {id} are no pipes", "it was started with --null-io or --log-uri")
    status = await converse(task, terminal=task.streams.paths.terminal, start=False)
    await task.delete()
    return status.code


def signal_number(text: str) -> int:
    """``9``, ``KILL``, ``SIGKILL``, ``RTMIN+1``. Raises Failure."""
    if text.isdigit():
        return int(text)
    name, plus, offset = text.upper().partition("+")
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in signals.Signals.__members__ or (plus and not offset.isdigit()):
        raise Failure(f"unknown signal {text!r}", "say a number or a name like SIGTERM")
    return signals.Signals[name] + (int(offset) if plus else 0)


async def process_of(client: AsyncClient, id: str, exec_id: str) -> Process:
    if exec_id:
        return await client.tasks.exec_process(id, exec_id)
    return await client.tasks.get(id)


@command(
    click.option("-s", "--signal", default="", help="Name or number; the image's stop signal, else SIGTERM."),
    click.option("--exec-id", default="", help="An executed process instead of the container's own."),
    click.option("-a", "--all", "every", is_flag=True, help="Every process in the container."),
    click.argument("id"),
    name="kill",
    plain=True,
)
async def kill(client: AsyncClient, signal: str, exec_id: str, every: bool, id: str) -> None:
    """Send a signal."""
    process = await process_of(client, id, exec_id)
    if not signal:
        labels = (await client.containers.get(id)).labels
        signal = labels.get(STOP_SIGNAL_LABEL, "SIGTERM")
    await process.kill(signal_number(signal), all=every)


@command(
    click.option("-f", "--force", is_flag=True, help="Kill it first."),
    click.option("--exec-id", default="", help="An executed process instead of the container's own."),
    click.argument("ids", nargs=-1, required=True),
    name="delete",
)
async def delete(client: AsyncClient, force: bool, exec_id: str, ids: tuple[str, ...]) -> int:
    """Remove ended tasks; a non-zero exit status is shown."""
    failed = 0
    for id in ids:
        try:
            process = await process_of(client, id, exec_id)
            status = await (process.destroy() if force else process.delete())
            if status.code and not force:
                click.echo(f"{exec_id or id} exited with status {status.code}", err=True)
        except Error as error:
            warn(f"unable to delete task {exec_id or id}: {error.message}")
            failed = 1
    return failed


@command(click.argument("id"), tables.format_option, name="ps", plain=True)
async def ps(client: AsyncClient, id: str, form: str) -> None:
    """List a container's processes by the host's pids."""
    from longshore.api.types.runc.options.oci_pb2 import ProcessDetails

    rows = []
    for found in await (await client.tasks.get(id)).pids():
        details = ProcessDetails()
        if found.HasField("info"):
            with suppress(Exception):  # another runtime's details: not ours to show
                details.ParseFromString(found.info.value)
        rows.append(
            (str(found.pid), f"exec_id:{details.exec_id!r}".replace("'", '"') if details.exec_id else "-")
        )
    tables.show(("PID", "INFO"), rows, form=form, padding=4)


@command(click.argument("id"), name="pause", plain=True)
async def pause(client: AsyncClient, id: str) -> None:
    """Freeze a container."""
    await (await client.tasks.get(id)).pause()


@command(click.argument("id"), name="resume", plain=True)
async def resume(client: AsyncClient, id: str) -> None:
    """Let a frozen container go on."""
    await (await client.tasks.get(id)).resume()


def absolute(context: click.Context, parameter: click.Parameter, path: str) -> str:
    """The daemon doesn't know where we are."""
    return os.path.abspath(path) if path else ""


@command(
    click.option("--exit", is_flag=True, help="Stop the container with it."),
    click.option(
        "--image-path", default="", help="A folder for criu's images; by default they become an image."
    ),
    click.option("--work-path", callback=absolute, default="", help="A folder for criu's logs."),
    click.argument("id"),
    name="checkpoint",
)
async def checkpoint(client: AsyncClient, exit: bool, image_path: str, work_path: str, id: str) -> None:
    """Save a running container, by criu, as an image; its name is printed."""
    task = await client.tasks.get(id)
    if image_path:
        await task.dump(image_path, exit=exit, work=work_path)
    else:
        click.echo((await task.checkpoint(exit=exit, work=work_path)).name)


def flatten(fields: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """``memory.usage.usage  12``: a line for each number, by its path."""
    if isinstance(fields, dict):
        for key, value in fields.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(fields, list):
        if all(not isinstance(value, dict) for value in fields):
            yield prefix, str([int(value) for value in fields]).replace(",", "")
        else:
            for place, value in enumerate(fields):
                yield from flatten(value, f"{prefix}[{place}]")
    else:
        yield prefix, str(fields)


# The original's names for the counters that it shows of cgroup v1.
V1_ROWS = (
    ("memory.usage_in_bytes", "memory.usage.usage"),
    ("memory.limit_in_bytes", "memory.usage.limit"),
    ("memory.stat.cache", "memory.cache"),
    ("cpuacct.usage", "cpu.usage.total"),
    ("cpuacct.usage_percpu", "cpu.usage.per_cpu"),
    ("pids.current", "pids.current"),
    ("pids.limit", "pids.limit"),
)


def metric_rows(message: Message) -> list[tuple[str, str]]:
    fields = dict(flatten(document(message)))
    if message.DESCRIPTOR.full_name.endswith("v1.Metrics"):
        return [(name, fields.get(path, "0")) for name, path in V1_ROWS]
    return list(fields.items())


@command(click.argument("id"), tables.format_option, name="metrics", plain=True)
async def metrics(client: AsyncClient, id: str, form: str) -> None:
    """Show a container's counters, once."""
    from longshore.client.tasks import decode_metrics

    await client.tasks.get(id)
    found = await client.tasks.metrics([f'id=="{id}"'])
    if not found:
        raise NotFound(f"metrics of {id}: not found")
    message = decode_metrics(found[0])
    if form == "json":
        tables.show_json(document(message))
        return
    tables.show(("ID", "TIMESTAMP"), [(found[0].id, tables.rfc3339(found[0].timestamp))], padding=4)
    click.echo()
    tables.show(("METRIC", "VALUE"), metric_rows(message), padding=4)


for verb in (list_, start, exec_, attach, kill, delete, ps, pause, resume, metrics, checkpoint):
    tasks.add_command(verb)
