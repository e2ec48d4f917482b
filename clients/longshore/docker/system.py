"""version, info, events, df, system prune."""

from __future__ import annotations

import platform
import time
from typing import Any

import click

from longshore.docker import show
from longshore.docker.api import LATEST, Failure
from longshore.docker.app import App, confirmed, filters
from longshore.docker.containers import moment
from longshore.docker.templates import Template, to_json


@click.command()
@click.option("--format", "-f", "form", default="")
@click.pass_obj
def version(app: App, /, form: str) -> None:
    """Show the Docker version information."""
    from longshore.docker.main import VERSION

    client = {
        "Platform": {"Name": "Longshore"},
        "Version": VERSION,
        "ApiVersion": "{}.{}".format(*LATEST),
        "DefaultAPIVersion": "{}.{}".format(*LATEST),
        "GitCommit": "longshore",
        "GoVersion": f"(Python {platform.python_version()})",
        "Os": "linux",
        "Arch": _arch(),
        "BuildTime": "",
        "Context": "default",
    }
    failure: Failure | None = None
    try:
        client["ApiVersion"] = "{}.{}".format(*app.client.version)
        server: Any = app.client.get("/version")
    except Failure as error:
        failure, server = error, None
    if form:
        click.echo(
            show.pretty({"Client": client, "Server": server})
            if form == "json"
            else Template(show.unescaped(form)).render({"Client": client, "Server": server})
        )
    else:
        _print_version(client, server)
    if failure:
        raise failure


def _arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _print_version(client: dict[str, Any], server: Any) -> None:
    _fields(
        "Client:",
        [
            ("Version", client["Version"]),
            ("API version", client["ApiVersion"]),
            ("Python version", platform.python_version()),
            ("Git commit", client["GitCommit"]),
            ("OS/Arch", f"{client['Os']}/{client['Arch']}"),
            ("Context", client["Context"]),
        ],
        1,
    )
    if server is None:
        return
    click.echo(
        f"\nServer:{' ' + server['Platform']['Name'] if server.get('Platform', {}).get('Name') else ''}"
    )
    for component in server.get("Components") or ():
        details = component.get("Details") or {}
        rows = [("Version", component["Version"])]
        if component["Name"] == "Engine":
            rows += [
                (
                    "API version",
                    f"{details.get('ApiVersion')} (minimum version {details.get('MinAPIVersion')})",
                ),
                ("Go version", details.get("GoVersion", "")),
                ("Git commit", details.get("GitCommit", "")),
                ("Built", details.get("BuildTime", "")),
                ("OS/Arch", f"{details.get('Os')}/{details.get('Arch')}"),
                ("Experimental", details.get("Experimental", "false")),
            ]
        else:
            rows.append(("GitCommit", details.get("GitCommit", "")))
        _fields(f" {component['Name']}:", rows, 2)


def _fields(heading: str, rows: list[tuple[str, str]], indent: int) -> None:
    click.echo(heading)
    width = max(18, *(len(name) + 1 for name, _ in rows)) - indent + 1
    for name, value in rows:
        click.echo(" " * indent + f"{name}:".ljust(width) + str(value))


@click.command()
@click.option("--format", "-f", "form", default="")
@click.pass_obj
def info(app: App, /, form: str) -> None:
    """Display system-wide information."""
    found = app.client.get("/info")
    found["ClientInfo"] = {"Debug": False, "Context": "default", "Plugins": [], "Warnings": None}
    if form:
        click.echo(to_json(found) if form == "json" else Template(show.unescaped(form)).render(found))
        return
    click.echo("Client:\n Context:    default\n Debug Mode: false\n\nServer:")
    for name, member in _INFO:
        if member in found and found[member] not in ("", None):
            value = found[member]
            value = show.binary_size(value) if member == "MemTotal" else str(value)
            click.echo(f" {name}: {value.lower() if isinstance(found[member], bool) else value}")
    for name, value in found.get("DriverStatus") or ():
        click.echo(f"  {name}: {value}")
    click.echo(f" Plugins:\n  Volume: {' '.join(found['Plugins'].get('Volume') or ())}")
    click.echo(f"  Network: {' '.join(found['Plugins'].get('Network') or ())}")
    click.echo(f"  Log: {' '.join(found['Plugins'].get('Log') or ())}")
    click.echo(f" Runtimes: {' '.join(sorted(found.get('Runtimes') or ()))}")
    for registry in (found.get("RegistryConfig") or {}).get("InsecureRegistryCIDRs") or ():
        click.echo(f" Insecure Registry: {registry}")
    for warning in found.get("Warnings") or ():
        click.echo(warning, err=True)


_INFO = (
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"),
    ("Default Runtime", "DefaultRuntime"),
    ("Init Binary", "InitBinary"),
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Total Memory", "MemTotal"),
    ("Name", "Name"),
    ("ID", "ID"),
    ("Docker Root Dir", "DockerRootDir"),
    ("Debug Mode", "Debug"),
    ("Experimental", "ExperimentalBuild"),
    ("Live Restore Enabled", "LiveRestoreEnabled"),
)


@click.command()
@click.option("--filter", "-f", "chosen", multiple=True)
@click.option("--format", "form", default="")
@click.option("--since", default="")
@click.option("--until", default="")
@click.pass_obj
def events(app: App, /, chosen: tuple[str, ...], form: str, since: str, until: str) -> None:
    """Get real time events from the server."""
    query = {"since": moment(since), "until": moment(until), "filters": filters(chosen)}
    template = Template(show.unescaped(form)) if form and form not in ("json", "{{json .}}") else None
    for event in app.client.lines(app.client.send("GET", "/events", query)):
        if template:
            click.echo(template.render(_Event(event)))
        else:
            click.echo(to_json(event) if form else _event(event))


class _Event(dict[str, Any]):
    """Attributes that an event hasn't are empty, as in the original."""

    def __init__(self, event: dict[str, Any]) -> None:
        super().__init__(event)
        self["Actor"] = {**event["Actor"], "Attributes": _Lenient(event["Actor"].get("Attributes") or {})}
        self.setdefault("status", "")
        self.setdefault("id", "")
        self.setdefault("from", "")


class _Lenient(dict[str, str]):
    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return "<no value>"


def _event(event: Any) -> str:
    nanoseconds = event.get("timeNano") or event["time"] * 1_000_000_000
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    when = time.localtime(seconds)
    zone = time.strftime("%z", when)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", when) + f".{fraction:09d}{zone[:3]}:{zone[3:]}"
    attributes = event["Actor"].get("Attributes") or {}
    words = ", ".join(f"{name}={value}" for name, value in sorted(attributes.items()))
    said = f"{stamp.replace('+00:00', 'Z')} {event['Type']} {event['Action']} {event['Actor']['ID']}"
    return f"{said} ({words})" if words else said


@click.command()
@click.option("--format", "form", default="")
@click.option("--verbose", "-v", is_flag=True)
@click.pass_obj
def df(app: App, /, form: str, verbose: bool) -> None:
    """Show docker disk usage."""
    found = app.client.get("/system/df")
    rows = [show.Row(fields) for fields in _usage(found)]
    columns = (
        *(("TYPE", "Type"), ("TOTAL", "TotalCount"), ("ACTIVE", "Active")),
        *(("SIZE", "Size"), ("RECLAIMABLE", "Reclaimable")),
    )
    show.listing(rows, form, columns)


def _usage(found: Any) -> list[dict[str, Any]]:
    images, boxes = found.get("Images") or [], found.get("Containers") or []
    volumes, caches = found.get("Volumes") or [], found.get("BuildCache") or []
    used_images = [image for image in images if image.get("Containers", 0) > 0]
    layers = found.get("LayersSize") or 0
    kept = sum(image["Size"] - max(0, image.get("SharedSize", 0)) for image in used_images)
    running = [box for box in boxes if box["State"] in ("running", "paused", "restarting")]
    used = [volume for volume in volumes if (volume.get("UsageData") or {}).get("RefCount", 0) > 0]

    def space(volume: Any) -> int:
        return max(0, int((volume.get("UsageData") or {}).get("Size", 0)))

    written = [sum(box.get("SizeRw") or 0 for box in some) for some in (boxes, running)]
    held = [sum(map(space, some)) for some in (volumes, used)]
    cached = sum(cache["Size"] for cache in caches if not cache.get("Shared"))
    return [
        _line("Images", len(images), len(used_images), layers, max(0, layers - kept)),
        _line("Containers", len(boxes), len(running), written[0], written[0] - written[1]),
        _line("Local Volumes", len(volumes), len(used), held[0], held[0] - held[1]),
        _line(
            "Build Cache",
            len(caches),
            sum(bool(cache.get("InUse")) for cache in caches),
            cached,
            cached,
            False,
        ),
    ]


def _line(kind: str, total: int, active: int, size: int, free: int, percent: bool = True) -> dict[str, Any]:
    share = f" ({free * 100 // size}%)" if percent and size > 0 else ""
    return {
        "Type": lambda: kind,
        "TotalCount": lambda: str(total),
        "Active": lambda: str(active),
        "Size": lambda: show.size(size),
        "Reclaimable": lambda: show.size(free) + share,
    }


@click.command()
@click.option("--all", "-a", "everything", is_flag=True)
@click.option("--filter", "chosen", multiple=True)
@click.option("--force", "-f", is_flag=True)
@click.option("--volumes", is_flag=True)
@click.pass_obj
def prune(app: App, /, everything: bool, chosen: tuple[str, ...], force: bool, volumes: bool) -> None:
    """Remove unused data."""
    if not confirmed("This will remove all stopped containers, unused networks and images.", force):
        return
    asked = filters(chosen) or {}
    space = 0
    steps = [
        ("containers", "ContainersDeleted", "Deleted Containers"),
        ("networks", "NetworksDeleted", "Deleted Networks"),
    ]
    if volumes:
        steps.append(("volumes", "VolumesDeleted", "Deleted Volumes"))
    for noun, member, heading in steps:
        found = app.client.post(f"/{noun}/prune", {"filters": asked or None})
        space += found.get("SpaceReclaimed", 0)
        if names := found.get(member):
            click.echo("\n".join([f"{heading}:", *names, ""]))
    found = app.client.post(
        "/images/prune", {"filters": {**asked, "dangling": ["false" if everything else "true"]}}
    )
    if deleted := found.get("ImagesDeleted"):
        lines = [
            f"deleted: {e['Deleted']}" if e.get("Deleted") else f"untagged: {e['Untagged']}" for e in deleted
        ]
        click.echo("\n".join(["Deleted Images:", *lines, ""]))
    click.echo(f"Total reclaimed space: {show.size(space + found.get('SpaceReclaimed', 0))}")
