"""Networks."""

from __future__ import annotations

from typing import Any

import click

from longshore.docker import inspecting, options, show
from longshore.docker.api import Failure
from longshore.docker.app import App, confirmed, filters
from longshore.docker.show import Row

COLUMNS = (("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope"))


@click.command()
@click.option("--filter", "-f", "chosen", multiple=True)
@click.option("--format", "form", default="")
@click.option("--no-trunc", is_flag=True)
@click.option("--quiet", "-q", is_flag=True)
@click.pass_obj
def ls(app: App, /, chosen: tuple[str, ...], form: str, no_trunc: bool, quiet: bool) -> None:
    """List networks."""
    found = app.client.get("/networks", {"filters": filters(chosen)})
    rows = [_row(network, no_trunc) for network in sorted(found, key=lambda network: network["Name"])]
    show.listing(rows, form, COLUMNS, "ID" if quiet else "")


def _row(network: Any, whole: bool) -> Row:
    labels = network.get("Labels") or {}
    return Row(
        {
            "ID": lambda: network["Id"] if whole else show.short(network["Id"]),
            "Name": lambda: network["Name"],
            "Driver": lambda: network["Driver"],
            "Scope": lambda: network["Scope"],
            "IPv6": lambda: str(network.get("EnableIPv6", False)).lower(),
            "Internal": lambda: str(network.get("Internal", False)).lower(),
            "Labels": lambda: ",".join(f"{name}={value}" for name, value in labels.items()),
            "Label": lambda name: labels.get(name, ""),
            "CreatedAt": lambda: network["Created"],
        }
    )


@click.command()
@click.option("--attachable", is_flag=True)
@click.option("--aux-address", multiple=True)
@click.option("--config-from", default="")
@click.option("--config-only", is_flag=True)
@click.option("--driver", "-d", default="bridge")
@click.option("--gateway", multiple=True)
@click.option("--ingress", is_flag=True)
@click.option("--internal", is_flag=True)
@click.option("--ip-range", multiple=True)
@click.option("--ipam-driver", default="default")
@click.option("--ipam-opt", multiple=True)
@click.option("--ipv6", is_flag=True)
@click.option("--label", multiple=True)
@click.option("--opt", "-o", multiple=True)
@click.option("--scope", default="")
@click.option("--subnet", multiple=True)
@click.argument("name")
@click.pass_obj
def create(app: App, /, name: str, **given: Any) -> None:
    """Create a network."""
    body = {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": given["driver"],
        "Internal": given["internal"],
        "Attachable": given["attachable"],
        "Ingress": given["ingress"],
        "EnableIPv6": given["ipv6"],
        "Options": options.pairs(given["opt"]),
        "Labels": options.pairs(given["label"]),
        "IPAM": {
            "Driver": given["ipam_driver"],
            "Options": options.pairs(given["ipam_opt"]),
            "Config": _pools(given),
        },
    }
    made = app.client.post("/networks/create", None, body)
    click.echo(made["Id"])


def _pools(given: dict[str, Any]) -> list[dict[str, Any]]:
    from ipaddress import ip_address, ip_network

    pools: list[dict[str, Any]] = [{"Subnet": subnet} for subnet in given["subnet"]]
    placed = [("Gateway", text, text) for text in given["gateway"]]
    placed += [("IPRange", text, text.partition("/")[0]) for text in given["ip_range"]]
    placed += [("AuxiliaryAddresses", text, text.partition("=")[2]) for text in given["aux_address"]]
    try:
        nets = [ip_network(subnet, strict=False) for subnet in given["subnet"]]
        for member, text, address in placed:
            fits = (n for n, net in enumerate(nets) if ip_address(address) in net)
            number = next(fits, None)
            if number is None:
                raise Failure(f"no matching subnet for {_KINDS[member]} {address}")
            if member == "AuxiliaryAddresses":
                pools[number].setdefault(member, {}).update(options.pairs([text]))
            else:
                pools[number][member] = text
    except ValueError as error:
        if placed:
            raise Failure(f"invalid CIDR address: {error}") from None
        # Else the daemon says what it thinks of the subnet.
    return pools


_KINDS = {"Gateway": "gateway", "IPRange": "range", "AuxiliaryAddresses": "aux-address"}


@click.command()
@click.option("--force", "-f", is_flag=True)
@click.argument("names", metavar="NETWORK...", nargs=-1, required=True)
@click.pass_obj
def rm(app: App, /, names: tuple[str, ...], force: bool) -> None:
    """Remove one or more networks."""
    app.each(names, lambda name: app.client.delete(f"/networks/{name}"))


@click.command()
@click.option("--format", "-f", "form", default="")
@click.option("--verbose", "-v", is_flag=True)
@click.argument("names", metavar="NETWORK...", nargs=-1, required=True)
@click.pass_obj
def inspect(app: App, /, names: tuple[str, ...], form: str, verbose: bool) -> None:
    """Display detailed information on one or more networks."""
    inspecting.print_all(app, names, form, ("network",))


@click.command()
@click.option("--alias", multiple=True)
@click.option("--driver-opt", multiple=True)
@click.option("--ip", default="")
@click.option("--ip6", default="")
@click.option("--link", multiple=True)
@click.option("--link-local-ip", multiple=True)
@click.argument("network")
@click.argument("container")
@click.pass_obj
def connect(app: App, /, network: str, container: str, **given: Any) -> None:
    """Connect a container to a network."""
    settings = {
        "IPAMConfig": {
            "IPv4Address": given["ip"],
            "IPv6Address": given["ip6"],
            "LinkLocalIPs": list(given["link_local_ip"]),
        },
        "Aliases": list(given["alias"]),
        "Links": list(given["link"]),
        "DriverOpts": options.pairs(given["driver_opt"]),
    }
    body = {"Container": container, "EndpointConfig": settings}
    app.client.post(f"/networks/{network}/connect", None, body)


@click.command()
@click.option("--force", "-f", is_flag=True)
@click.argument("network")
@click.argument("container")
@click.pass_obj
def disconnect(app: App, /, network: str, container: str, force: bool) -> None:
    """Disconnect a container from a network."""
    app.client.post(f"/networks/{network}/disconnect", None, {"Container": container, "Force": force})


@click.command()
@click.option("--filter", "chosen", multiple=True)
@click.option("--force", "-f", is_flag=True)
@click.pass_obj
def prune(app: App, /, chosen: tuple[str, ...], force: bool) -> None:
    """Remove all unused networks."""
    if confirmed("This will remove all custom networks not used by at least one container.", force):
        found = app.client.post("/networks/prune", {"filters": filters(chosen)})
        if names := found.get("NetworksDeleted"):
            click.echo("\n".join(["Deleted Networks:", *names, ""]))
