"""run, create, exec, attach, start: whatever joins us to a container's streams."""

from __future__ import annotations

import json
import sys
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import click

from longshore.docker import options, references, streams
from longshore.docker.api import APIError, Client, Failure
from longshore.docker.app import App

PLAIN = {"allow_interspersed_args": False}


def _fill(command: click.Command) -> click.Command:
    command.params[:0] = options.all_options()
    return command


@_fill
@click.command(context_settings=PLAIN, add_help_option=False)
@click.option("--help", is_flag=True, expose_value=False, is_eager=True, callback=lambda c, _, v: _help(c, v))
@click.option("--detach", "-d", is_flag=True)
@click.option("--detach-keys", default="")
@click.option("--sig-proxy/--no-sig-proxy", default=True)
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(app: App, /, image: str, command: tuple[str, ...], **values: Any) -> None:
    """Create and run a new container from an image."""
    with app.prefixed(125):
        body = options.make(values, image, command)
        if body["HostConfig"].get("AutoRemove") and (values["restart"] or "no") != "no":
            raise Failure("conflicting options: cannot specify both --restart and --rm")
        keys = streams.keys(values["detach_keys"] or app.config.document.get("detachKeys", ""))
        if body.get("Tty") and body["AttachStdin"] and not sys.stdin.isatty() and not values["detach"]:
            raise Failure("the input device is not a TTY", 1)
        id = _create(app, body, values)
        if values["detach"]:
            try:
                _started(app, id)
            finally:
                click.echo(id)
            return
        status = _joined(app, id, body, values, keys)
    raise SystemExit(status)


@_fill
@click.command(context_settings=PLAIN, add_help_option=False)
@click.option("--help", is_flag=True, expose_value=False, is_eager=True, callback=lambda c, _, v: _help(c, v))
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def create(app: App, /, image: str, command: tuple[str, ...], **values: Any) -> None:
    """Create a new container."""
    body = options.make(values, image, command)
    click.echo(_create(app, body, values))


def _help(context: click.Context, wanted: bool) -> None:
    if wanted:
        click.echo(context.get_help())
        context.exit()


def _create(app: App, body: dict[str, Any], values: dict[str, Any]) -> str:
    file = Path(values["cidfile"]) if values["cidfile"] else None
    if file and file.exists():
        raise Failure(
            f"container ID file found, make sure the other container isn't running or delete {file}", 125
        )
    query = {"name": values["name"], "platform": values["platform"]}
    if values["pull"] == "always":
        _pull(app, body["Image"], values)
    try:
        made = app.client.post("/containers/create", query, body)
    except APIError as error:
        if error.code != 404 or "o such image" not in error.message or values["pull"] == "never":
            raise
        click.echo(f"Unable to find image '{_tagged(body['Image'])}' locally", err=True)
        _pull(app, body["Image"], values)
        made = app.client.post("/containers/create", query, body)
    for warning in made.get("Warnings") or ():
        click.echo(f"WARNING: {warning}", err=True)
    if file:
        file.write_text(made["Id"])
    return str(made["Id"])


def _tagged(name: str) -> str:
    repository, tag = references.split(name)
    return name if tag else f"{repository}:latest"


def _pull(app: App, name: str, values: dict[str, Any]) -> None:
    repository, tag = references.split(name)
    query = {"fromImage": repository, "tag": tag or "latest", "platform": values["platform"]}
    answer = app.client.send("POST", "/images/create", query, headers=app.config.header(name))
    try:
        for message in app.client.lines(answer):
            if "error" in message:
                raise Failure(f"Error response from daemon: {message['error']}", 125)
            if not values["quiet"] and message.get("status") and "progressDetail" not in message:
                id = f"{message['id']}: " if message.get("id") else ""
                click.echo(f"{id}{message['status']}", err=True)
    finally:
        answer.close()


def _started(app: App, id: str) -> None:
    try:
        app.client.post(f"/containers/{id}/start")
    except APIError as error:
        text = error.message
        missing = ("no such file or directory", "executable file not found", "system cannot find the file")
        forbidden = ("permission denied", "is a directory")
        error.status = (
            127
            if any(word in text for word in missing)
            else 126
            if any(w in text for w in forbidden)
            else 125
        )
        raise


def _joined(app: App, id: str, body: dict[str, Any], values: dict[str, Any], keys: bytes) -> int:
    """Attach before the start, so that nothing is missed; its exit status."""
    client, terminal = app.client, bool(body.get("Tty"))
    stdin = body["AttachStdin"] and bool(body.get("OpenStdin"))
    query = {
        "stream": True,
        "stdin": stdin,
        "stdout": body["AttachStdout"],
        "stderr": body["AttachStderr"],
        "detachKeys": values["detach_keys"],
    }
    connection = client.hijack(f"/containers/{id}/attach", query)
    waiting = _waiting(client, id, "removed" if body["HostConfig"].get("AutoRemove") else "next-exit")
    if not terminal and values["sig_proxy"]:
        streams.forward_signals(client, id)
    session = streams.Session(connection, terminal=terminal, stdin=stdin, keys=keys)
    with session:
        _started(app, id)
        if terminal and sys.stdout.isatty():
            streams.follow_size(client, f"/containers/{id}")
        session.run()
    if session.detached:
        return 0
    return _outcome(waiting)


def _waiting(client: Client, id: str, condition: str) -> HTTPResponse:
    """Its headers have come: the daemon watches, whatever happens next."""
    return client.send("POST", f"/containers/{id}/wait", {"condition": condition})


def _outcome(waiting: HTTPResponse) -> int:
    with waiting:
        outcome = json.loads(waiting.read() or b"{}")
    if (outcome.get("Error") or {}).get("Message"):
        click.echo(f"Error waiting for container: {outcome['Error']['Message']}", err=True)
        return 125
    return int(outcome.get("StatusCode", 125))


@click.command("exec", context_settings=PLAIN)
@click.option("--detach", "-d", is_flag=True)
@click.option("--detach-keys", default="")
@click.option("--interactive", "-i", is_flag=True)
@click.option("--tty", "-t", is_flag=True)
@click.option("--privileged", is_flag=True)
@click.option("--user", "-u", default="")
@click.option("--workdir", "-w", default="")
@click.option("--env", "-e", multiple=True)
@click.option("--env-file", multiple=True)
@click.argument("container")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@click.pass_obj
def execute(app: App, /, container: str, command: tuple[str, ...], **values: Any) -> None:
    """Execute a command in a running container."""
    detached, terminal = values["detach"], values["tty"]
    keys = streams.keys(values["detach_keys"] or app.config.document.get("detachKeys", ""))
    if terminal and values["interactive"] and not detached and not sys.stdin.isatty():
        raise Failure("the input device is not a TTY")
    document = {
        "User": values["user"],
        "Privileged": values["privileged"],
        "Tty": terminal,
        "AttachStdin": values["interactive"] and not detached,
        "AttachStdout": not detached,
        "AttachStderr": not detached,
        "DetachKeys": values["detach_keys"],
        "Env": options.environment(values["env_file"], values["env"]),
        "WorkingDir": values["workdir"],
        "Cmd": list(command),
    }
    id = app.client.post(f"/containers/{container}/exec", None, document)["Id"]
    start = {"Detach": detached, "Tty": terminal}
    if detached:
        app.client.post(f"/exec/{id}/start", None, start)
        return
    connection = app.client.hijack(f"/exec/{id}/start", None, start)
    session = streams.Session(connection, terminal=terminal, stdin=values["interactive"], keys=keys)
    with session:
        if terminal and sys.stdout.isatty():
            streams.follow_size(app.client, f"/exec/{id}")
        session.run()
    if not session.detached:
        raise SystemExit(app.client.get(f"/exec/{id}/json").get("ExitCode") or 0)


@click.command()
@click.option("--detach-keys", default="")
@click.option("--no-stdin", is_flag=True)
@click.option("--sig-proxy/--no-sig-proxy", default=True)
@click.argument("container")
@click.pass_obj
def attach(app: App, /, container: str, **values: Any) -> None:
    """Attach local standard input, output, and error streams to a running container."""
    found = app.client.get(f"/containers/{container}/json")
    if not found["State"]["Running"]:
        raise Failure("cannot attach to a stopped container, start it first")
    if found["State"]["Paused"]:
        raise Failure("cannot attach to a paused container, unpause it first")
    raise SystemExit(_attached(app, found, values, start=False))


def _attached(app: App, found: Any, values: dict[str, Any], *, start: bool) -> int:
    id, config = found["Id"], found["Config"]
    terminal = config["Tty"]
    stdin = config["OpenStdin"] and not values.get("no_stdin") and values.get("interactive", True)
    keys = streams.keys(values["detach_keys"] or app.config.document.get("detachKeys", ""))
    query = {
        "stream": True,
        "stdin": stdin,
        "stdout": True,
        "stderr": True,
        "detachKeys": values["detach_keys"],
    }
    connection = app.client.hijack(f"/containers/{id}/attach", query)
    remove = found["HostConfig"].get("AutoRemove")
    waiting = _waiting(app.client, id, "removed" if remove and start else "next-exit" if start else "")
    if not terminal and values.get("sig_proxy", True):
        streams.forward_signals(app.client, id)
    session = streams.Session(connection, terminal=terminal, stdin=stdin, keys=keys)
    with session:
        if start:
            app.client.post(f"/containers/{id}/start")
        if terminal and sys.stdout.isatty():
            streams.follow_size(app.client, f"/containers/{id}")
        session.run()
    return 0 if session.detached else _outcome(waiting)


@click.command()
@click.option("--attach", "-a", "attached", is_flag=True)
@click.option("--interactive", "-i", is_flag=True)
@click.option("--detach-keys", default="")
@click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
@click.pass_obj
def start(app: App, /, names: tuple[str, ...], attached: bool, **values: Any) -> None:
    """Start one or more stopped containers."""
    if attached or values["interactive"]:
        if len(names) > 1:
            raise Failure("you cannot start and attach multiple containers at once")
        found = app.client.get(f"/containers/{names[0]}/json")
        raise SystemExit(_attached(app, found, values, start=True))
    failed = []
    for name in names:
        try:
            app.client.post(f"/containers/{name}/start")
            click.echo(name)
        except APIError as error:
            click.echo(error, err=True)
            failed.append(name)
    if failed:
        raise Failure(f"Error: failed to start containers: {', '.join(failed)}")
