"""``ctr plugins``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from longshore.client import defaults
from longshore.ctr import tables
from longshore.ctr.command import LIST, Verbs, command
from longshore.ctr.documents import document

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.client.introspection import Plugin


@click.group("plugins", cls=Verbs, aliases=LIST)
def plugins() -> None:
    """What the daemon is made of."""


def status(plugin: Plugin) -> str:
    """A plugin that chose not to run says so in its error's text."""
    if not plugin.HasField("init_err"):
        return "ok"
    return "skip" if "skip plugin" in plugin.init_err.message else "error"


def platforms(plugin: Plugin) -> str:
    found = ["/".join(filter(None, (p.os, p.architecture, p.variant))) for p in plugin.platforms]
    return ",".join(found) or "-"


@command(
    tables.quiet_option,
    click.option("-d", "--detailed", is_flag=True, help="Everything about each plugin."),
    tables.format_option,
    click.argument("filters", nargs=-1),
    name="list",
    plain=True,
)
async def list_(
    client: AsyncClient, quiet: bool, detailed: bool, form: str, filters: tuple[str, ...]
) -> None:
    """List the daemon's plugins."""
    found = await client.introspection.plugins(filters)
    if quiet:
        for plugin in found:
            click.echo(f"{plugin.type}.{plugin.id}")
        return
    if detailed and form == "table":
        click.echo("\n".join(describe(plugin) for plugin in found), nl=False)
        return
    rows = [(p.type, p.id, platforms(p), status(p)) for p in found]
    objects = [
        {
            "type": p.type,
            "id": p.id,
            "platforms": platforms(p),
            "status": status(p),
            "requires": list(p.requires),
            "exports": dict(p.exports),
            "capabilities": list(p.capabilities),
            "error": p.init_err.message,
        }
        for p in found
    ]
    tables.show(("TYPE", "ID", "PLATFORMS", "STATUS"), rows, form=form, padding=4, objects=objects)


def describe(plugin: Plugin) -> str:
    lines = [("Type:", plugin.type), ("ID:", plugin.id)]
    if plugin.requires:
        lines += [("Requires:", "")] + [("", name) for name in plugin.requires]
    if plugin.platforms:
        lines.append(("Platforms:", platforms(plugin)))
    if plugin.exports:
        lines += [("Exports:", "")] + [
            ("", f"{key}: {plugin.exports[key]}") for key in sorted(plugin.exports)
        ]
    if plugin.capabilities:
        lines.append(("Capabilities:", ",".join(plugin.capabilities)))
    if plugin.HasField("init_err"):
        lines.append(("Error:", plugin.init_err.message))
    return "".join(f"{key:<15}{value}\n" for key, value in lines)


@command(
    click.option(
        "--runtime", default=defaults.RUNTIME, show_default=True, help="Runtime name, or a shim's path."
    ),
    click.option("--runtime-config-path", default="", help="A configuration for runtimes other than runc."),
    click.option("--runc-binary", default="", help="The OCI runtime to ask."),
    click.option("--runc-root", default="", help="Where it keeps its state."),
    click.option("--runc-systemd-cgroup", is_flag=True, help="Have systemd make cgroups."),
    name="inspect-runtime",
    plain=True,
)
async def inspect_runtime(client: AsyncClient, /, runtime: str, **values: Any) -> None:
    """Show what a runtime can do, as its shim tells it."""
    from longshore.api import typeurls
    from longshore.api.types.introspection_pb2 import RuntimeInfo, RuntimeRequest
    from longshore.ctr.flags import Wishes

    request = RuntimeRequest(runtime_path=runtime)
    options = Wishes({**values, "no_pivot": False}).runtime_options()
    if options is not None and (options.ByteSize() or values["runtime_config_path"]):
        request.options.CopyFrom(typeurls.pack(options))
    answer = await client.introspection.plugin_info(
        "io.containerd.runtime.v2", "task", typeurls.pack(request)
    )
    found = RuntimeInfo()
    found.ParseFromString(answer.extra.value)
    shown = document(found)
    if found.features.value:
        shown["features"] = json.loads(found.features.value)
    tables.show_json(shown)


for verb in (list_, inspect_runtime):
    plugins.add_command(verb)
