"""Containers: list them, look at them, end them."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

import click

from longshore.docker import options, show, streams
from longshore.docker.api import APIError, Failure
from longshore.docker.app import App, confirmed, filters
from longshore.docker.show import Row

NAMES = click.argument("names", metavar="CONTAINER...", nargs=-1, required=True)
COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
)


@click.command()
@click.option("--all", "-a", "everything", is_flag=True)
@click.option("--filter", "-f", "chosen", multiple=True)
@click.option("--format", "form", default="")
@click.option("--last", "-n", type=int, default=-1)
@click.option("--latest", "-l", is_flag=True)
@click.option("--no-trunc", is_flag=True)
@click.option("--quiet", "-q", is_flag=True)
@click.option("--size", "-s", is_flag=True)
@click.pass_obj
def ls(app: App, /, everything: bool, chosen: tuple[str, ...], form: str, **flags: Any) -> None:
    """List containers."""
    limit = 1 if flags["latest"] else flags["last"]
    sized = flags["size"] or ".Size" in form
    query = {
        "all": everything,
        "limit": limit if limit > 0 else None,
        "size": sized,
        "filters": filters(chosen),
    }
    form = form or ("" if flags["quiet"] else app.config.document.get("psFormat", ""))
    rows = [_row(found, flags["no_trunc"]) for found in app.client.get("/containers/json", query)]
    columns = (*COLUMNS, ("SIZE", "Size")) if flags["size"] else COLUMNS
    show.listing(rows, form, columns, "ID" if flags["quiet"] else "")


def _row(found: Any, whole: bool) -> Row:
    names = [name.lstrip("/") for name in found["Names"] if whole or "/" not in name.lstrip("/")]
    labels = found.get("Labels") or {}
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    command = json.dumps(found["Command"] if whole else show.cut(found["Command"], 20), ensure_ascii=False)
    mounts = [mount.get("Name") or mount["Source"] for mount in found.get("Mounts") or ()]
    return Row(
        {
            "ID": lambda: found["Id"] if whole else show.short(found["Id"]),
            "Image": lambda: (
                found["Image"] if not found["Image"].startswith("sha256:") else show.short(found["Image"])
            ),
            "Command": lambda: command,
            "CreatedAt": lambda: show.local(found["Created"]),
            "RunningFor": lambda: show.ago(found["Created"]),
            "Ports": lambda: ports(found.get("Ports") or []),
            "State": lambda: found["State"],
            "Status": lambda: found["Status"],
            "Size": lambda: _sizes(found),
            "Names": lambda: ",".join(names),
            "Labels": lambda: ",".join(f"{name}={value}" for name, value in labels.items()),
            "Label": lambda name: labels.get(name, ""),
            "Mounts": lambda: ",".join(mounts if whole else [show.cut(name, 15) for name in mounts]),
            "LocalVolumes": lambda: str(sum(m.get("Driver") == "local" for m in found.get("Mounts") or ())),
            "Networks": lambda: ",".join(sorted(networks)),
        }
    )


def _sizes(found: Any) -> str:
    written, whole = show.size(found.get("SizeRw") or 0), found.get("SizeRootFs") or 0
    return f"{written} (virtual {show.size(whole)})" if whole else written


def ports(given: list[Any]) -> str:
    """ "0.0.0.0:8080->80/tcp, 81/udp", neighbours joined to ranges."""
    groups: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
    for port in given:
        public = port.get("PublicPort") or 0
        shift = public - port["PrivatePort"] if public else 0
        groups.setdefault((port.get("IP") or "", port["Type"], shift if public else -1 << 20), []).append(
            (port["PrivatePort"], public)
        )
    shown = []
    for (address, protocol, _), pairs in groups.items():
        for first, last in _runs(sorted(set(pairs))):
            inside = _span(first[0], last[0])
            outside = f"{_host(address)}{_span(first[1], last[1])}->" if first[1] else ""
            shown.append(((first[0], protocol, ":" in address), f"{outside}{inside}/{protocol}"))
    return ", ".join(text for _, text in sorted(shown))


def _host(address: str) -> str:
    return f"[{address}]:" if ":" in address else f"{address}:" if address else ""


def _runs(pairs: list[tuple[int, int]]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    runs = [(pairs[0], pairs[0])]
    for pair in pairs[1:]:
        if pair[0] == runs[-1][1][0] + 1:
            runs[-1] = (runs[-1][0], pair)
        else:
            runs.append((pair, pair))
    return runs


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _simple(verb: str, words: str) -> click.Command:
    @click.command(verb, help=words)
    @NAMES
    @click.pass_obj
    def command(app: App, /, names: tuple[str, ...]) -> None:
        app.each(names, lambda name: app.client.post(f"/containers/{name}/{verb}"))

    return command


pause = _simple("pause", "Pause all processes within one or more containers.")
unpause = _simple("unpause", "Unpause all processes within one or more containers.")


def _stopping(verb: str, words: str) -> click.Command:
    @click.command(verb, help=words)
    @click.option("--signal", "-s", default=None)
    @click.option("--timeout", "--time", "-t", type=int, default=None)
    @NAMES
    @click.pass_obj
    def command(app: App, /, names: tuple[str, ...], signal: str | None, timeout: int | None) -> None:
        query = {"signal": signal, "t": timeout}
        app.each(names, lambda name: app.client.post(f"/containers/{name}/{verb}", query))

    return command


stop = _stopping("stop", "Stop one or more running containers.")
restart = _stopping("restart", "Restart one or more containers.")


@click.command()
@click.option("--signal", "-s", default=None)
@NAMES
@click.pass_obj
def kill(app: App, /, names: tuple[str, ...], signal: str | None) -> None:
    """Kill one or more running containers."""
    app.each(names, lambda name: app.client.post(f"/containers/{name}/kill", {"signal": signal}))


@click.command()
@click.option("--force", "-f", is_flag=True)
@click.option("--link", "-l", is_flag=True)
@click.option("--volumes", "-v", is_flag=True)
@NAMES
@click.pass_obj
def rm(app: App, /, names: tuple[str, ...], force: bool, link: bool, volumes: bool) -> None:
    """Remove one or more containers."""
    query = {"force": force, "link": link, "v": volumes}
    app.each(names, lambda name: _remove(app, name, query, force))


def _remove(app: App, name: str, query: dict[str, Any], force: bool) -> None:
    try:
        app.client.delete(f"/containers/{name.strip('/') or name}", query)
    except APIError as error:
        if force and error.code == 404:
            click.echo(error, err=True)
            return
        raise


@click.command()
@NAMES
@click.pass_obj
def wait(app: App, /, names: tuple[str, ...]) -> None:
    """Block until one or more containers stop, then print their exit codes."""
    app.each(names, lambda name: str(app.client.post(f"/containers/{name}/wait")["StatusCode"]))


@click.command()
@click.argument("container")
@click.argument("name")
@click.pass_obj
def rename(app: App, /, container: str, name: str) -> None:
    """Rename a container."""
    try:
        app.client.post(f"/containers/{container}/rename", {"name": name})
    except APIError as error:
        raise Failure(f"{error}\nError: failed to rename container named {container}") from None


@click.command()
@click.option("--details", is_flag=True)
@click.option("--follow", "-f", is_flag=True)
@click.option("--since", default="")
@click.option("--tail", "-n", default="all")
@click.option("--timestamps", "-t", is_flag=True)
@click.option("--until", default="")
@click.argument("container")
@click.pass_obj
def logs(app: App, /, container: str, **flags: Any) -> None:
    """Fetch the logs of a container."""
    found = app.client.get(f"/containers/{container}/json")
    query = {
        **flags,
        "since": moment(flags["since"]),
        "until": moment(flags["until"]),
        "stdout": True,
        "stderr": True,
    }
    with app.client.send("GET", f"/containers/{found['Id']}/logs", query) as answer:
        streams.copy_output(lambda: answer.read1(65536), terminal=found["Config"]["Tty"])


def moment(text: str) -> str | None:
    """A time, or how long ago, as the API takes it: Unix seconds."""
    if not text:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    try:
        return f"{time.time() - options.nanoseconds(text) / 1e9:.9f}"
    except Failure:
        seconds = show.unix(text if "T" in text else f"{text}T00:00:00")
        if not seconds:
            raise Failure(
                f'invalid value for "since": failed to parse value as time or duration: "{text}"'
            ) from None
        return f"{seconds:.9f}"


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("container")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def top(app: App, /, container: str, arguments: tuple[str, ...]) -> None:
    """Display the running processes of a container."""
    query = {"ps_args": " ".join(arguments)} if arguments else None
    found = app.client.get(f"/containers/{container}/top", query)
    show.table(found["Titles"], found["Processes"] or [])


@click.command()
@click.argument("container")
@click.argument("wanted", metavar="[PORT[/PROTO]]", required=False)
@click.pass_obj
def port(app: App, /, container: str, wanted: str | None) -> None:
    """List port mappings or a specific mapping for the container."""
    found = app.client.get(f"/containers/{container}/json")["NetworkSettings"]["Ports"] or {}
    if wanted:
        name = wanted if "/" in wanted else f"{wanted}/tcp"
        if not found.get(name):
            raise Failure(f"Error: No public port '{wanted}' published for {container}")
        for binding in found[name]:
            click.echo(_binding(binding))
        return
    for name in sorted(found, key=lambda name: (int(name.split("/")[0]), name)):
        for binding in found[name] or ():
            click.echo(f"{name} -> {_binding(binding)}")


def _binding(binding: Any) -> str:
    return f"{_host(binding['HostIp'])}{binding['HostPort']}"


@click.command()
@click.argument("container")
@click.pass_obj
def diff(app: App, /, container: str) -> None:
    """Inspect changes to files or directories on a container's filesystem."""
    for change in app.client.get(f"/containers/{container}/changes") or ():
        click.echo(f"{'CAD'[change['Kind']]} {change['Path']}")


_UPDATES = (
    *("--memory", "--memory-swap", "--memory-reservation", "--kernel-memory", "--cpus", "--cpu-shares"),
    *("--cpu-period", "--cpu-quota", "--cpu-rt-period", "--cpu-rt-runtime", "--cpuset-cpus", "--cpuset-mems"),
    *("--pids-limit", "--blkio-weight", "--restart"),
)


@click.command(
    params=[
        click.Option([*flag.names, options.key(flag)], default=None)
        for flag in options.FLAGS
        if flag.names[0] in _UPDATES
    ]
)
@NAMES
@click.pass_obj
def update(app: App, /, names: tuple[str, ...], **values: Any) -> None:
    """Update configuration of one or more containers."""
    body = {
        flag.path.removeprefix("HostConfig."): flag.convert(values[options.key(flag)])
        for flag in options.FLAGS
        if values.get(options.key(flag)) is not None
    }
    if not body:
        raise Failure("you must provide one or more flags when using this command")

    def one(name: str) -> None:
        for warning in (app.client.post(f"/containers/{name}/update", None, body) or {}).get(
            "Warnings"
        ) or ():
            click.echo(warning, err=True)

    app.each(names, one)


@click.command()
@click.option("--filter", "chosen", multiple=True)
@click.option("--force", "-f", is_flag=True)
@click.pass_obj
def prune(app: App, /, chosen: tuple[str, ...], force: bool) -> None:
    """Remove all stopped containers."""
    if confirmed("This will remove all stopped containers.", force):
        found = app.client.post("/containers/prune", {"filters": filters(chosen)})
        pruned("Deleted Containers", found.get("ContainersDeleted") or [], found["SpaceReclaimed"])


def pruned(heading: str, names: list[str], space: int | None) -> None:
    """What every prune says."""
    if names:
        click.echo("\n".join([f"{heading}:", *names, ""]))
    if space is not None:
        click.echo(f"Total reclaimed space: {show.size(space)}")


STATS = (
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
)


@click.command()
@click.option("--all", "-a", "everything", is_flag=True)
@click.option("--format", "form", default="")
@click.option("--no-stream", is_flag=True)
@click.option("--no-trunc", is_flag=True)
@click.argument("names", metavar="[CONTAINER...]", nargs=-1)
@click.pass_obj
def stats(
    app: App, /, names: tuple[str, ...], everything: bool, form: str, no_stream: bool, no_trunc: bool
) -> None:
    """Display a live stream of container(s) resource usage statistics."""
    while True:
        wanted = names or [found["Id"] for found in app.client.get("/containers/json", {"all": everything})]
        rows = []
        for name in wanted:
            found = app.client.get(f"/containers/{name}/stats", {"stream": "0"})
            rows.append(_usage(found, no_trunc))
        if not no_stream and sys.stdout.isatty():
            click.clear()
        show.listing(rows, form, STATS)
        if no_stream:
            return
        time.sleep(1)


def _usage(found: Any, whole: bool) -> Row:
    memory = found.get("memory_stats") or {}
    inner = memory.get("stats") or {}
    cache = inner.get("total_inactive_file", inner.get("inactive_file", 0))
    used, limit = max(0, memory.get("usage", 0) - cache), memory.get("limit", 0)
    networks = (found.get("networks") or {}).values()
    blocks: dict[str, int] = {}
    for entry in (found.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ():
        blocks[entry["op"].lower()] = blocks.get(entry["op"].lower(), 0) + entry["value"]
    id = found.get("id", "")
    return Row(
        {
            "Container": lambda: id,
            "ID": lambda: id if whole else show.short(id),
            "Name": lambda: found.get("name", "").lstrip("/"),
            "CPUPerc": lambda: f"{_cpu(found):.2f}%",
            "MemUsage": lambda: f"{show.binary_size(used)} / {show.binary_size(limit)}",
            "MemPerc": lambda: f"{used * 100 / limit if limit else 0:.2f}%",
            "NetIO": lambda: " / ".join(
                show.size(sum(n[key] for n in networks)) for key in ("rx_bytes", "tx_bytes")
            ),
            "BlockIO": lambda: " / ".join(show.size(blocks.get(key, 0)) for key in ("read", "write")),
            "PIDs": lambda: str((found.get("pids_stats") or {}).get("current", 0)),
        }
    )


def _cpu(found: Any) -> float:
    now, before = found.get("cpu_stats") or {}, found.get("precpu_stats") or {}
    used = now["cpu_usage"]["total_usage"] - (before.get("cpu_usage") or {}).get("total_usage", 0)
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ()) or 1
    return used / system * cpus * 100 if used > 0 and system > 0 else 0.0
