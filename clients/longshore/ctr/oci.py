"""``ctr oci``: the runtime specification, without a daemon."""

from __future__ import annotations

import click

from longshore.ctr import tables
from longshore.ctr.command import Settings, Verbs


@click.group("oci", cls=Verbs)
def oci() -> None:
    """The OCI runtime specification."""


@oci.command("spec")
@click.option("--platform", default="", help="Accepted: all of ours are Linux.")
@click.pass_obj
def spec(settings: Settings, platform: str) -> None:
    """Print the specification that `run` starts from."""
    from longshore.client.oci import parse_platform
    from longshore.client.spec import default

    if platform and parse_platform(platform).os != "linux":
        raise click.UsageError(f"no default specification for {platform}: linux only")
    tables.show_json(default(settings.namespace, ""))
