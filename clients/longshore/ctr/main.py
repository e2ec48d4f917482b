"""The command ``ctr``: a table of nouns, and the options before them."""

from __future__ import annotations

import os
import sys

import click

from longshore.client import defaults
from longshore.ctr.command import Nouns, Settings

NOUNS = {
    "plugins": ("longshore.ctr.plugins:plugins", "What the daemon is made of."),
    "info": ("longshore.ctr.info:info", "What the daemon says of itself."),
    "deprecations": ("longshore.ctr.info:deprecations", "What is in use and going away."),
    "version": ("longshore.ctr.version:version", "The versions of client and daemon."),
    "containers": ("longshore.ctr.containers:containers", "Manage containers."),
    "content": ("longshore.ctr.content:content", "Manage blobs."),
    "events": ("longshore.ctr.events:events", "Show events as they happen, or since a sequence."),
    "images": ("longshore.ctr.images:images", "Manage images."),
    "leases": ("longshore.ctr.leases:leases", "Manage leases."),
    "namespaces": ("longshore.ctr.namespaces:namespaces", "Manage namespaces."),
    "oci": ("longshore.ctr.oci:oci", "The OCI runtime specification."),
    "run": ("longshore.ctr.run:run", "Run a container."),
    "snapshots": ("longshore.ctr.snapshots:snapshots", "Manage snapshots."),
    "tasks": ("longshore.ctr.tasks:tasks", "Manage running containers."),
}

UNBUILT = {
    "install": "`images mount NAME DIR` shows an image's files",
    "pprof": "profiles are of Go programs; `kill -USR1` makes the daemon log what it is doing",
    "sandboxes": "the daemon has them (Controller and Store, see its README), ctr doesn't show them",
    "shim": "`tasks` does all that a shim can be asked",
}

ALIASES = {
    "c": "containers",
    "container": "containers",
    "event": "events",
    "i": "images",
    "image": "images",
    "namespace": "namespaces",
    "ns": "namespaces",
    "plugin": "plugins",
    "snapshot": "snapshots",
    "t": "tasks",
    "task": "tasks",
}


@click.group(
    cls=Nouns,
    members=NOUNS,
    aliases=ALIASES,
    unbuilt=UNBUILT,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Short image names are taken as they are: say docker.io/library/busybox:latest.",
)
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
@click.option(
    "-a",
    "--address",
    envvar="CONTAINERD_ADDRESS",
    default=defaults.ADDRESS,
    show_default=True,
    help="containerd's socket.",
)
@click.option("--timeout", type=float, default=0, help="Give up after so many seconds (0: never).")
@click.option("--connect-timeout", type=float, default=0, help="Seconds for the connection.")
@click.option(
    "-n",
    "--namespace",
    envvar="CONTAINERD_NAMESPACE",
    default=defaults.NAMESPACE,
    show_default=True,
    help="The namespace to work in.",
)
@click.version_option(
    None, "-v", "--version", package_name="longshore", message="ctr %(package)s %(version)s"
)
@click.pass_context
def cli(
    context: click.Context, debug: bool, address: str, timeout: float, connect_timeout: float, namespace: str
) -> None:
    """Work on containerd by hand: Longshore's or the original."""
    address = os.path.abspath(address.removeprefix("unix://"))
    context.obj = Settings(address, namespace, timeout, connect_timeout, debug)


def main() -> int:
    """Run ctr with sys.argv; answers the exit status."""
    try:
        # Not standalone, click answers with the status of an Exit instead of raising it.
        return int(cli.main(prog_name="ctr", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except BrokenPipeError:  # `ctr ... | head`: nobody wants the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
