"""login and logout."""

from __future__ import annotations

import sys

import click

from longshore.docker import references
from longshore.docker.api import Failure
from longshore.docker.app import App


@click.command()
@click.option("--password", "-p", default=None)
@click.option("--password-stdin", is_flag=True)
@click.option("--username", "-u", default=None)
@click.argument("server", required=False)
@click.pass_obj
def login(
    app: App, /, server: str | None, username: str | None, password: str | None, password_stdin: bool
) -> None:
    """Authenticate to a registry."""
    address = _address(server)
    if password is not None:
        click.echo("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", err=True)
    if password_stdin:
        if not username:
            raise Failure("Must provide --username with --password-stdin")
        if password is not None:
            raise Failure("--password and --password-stdin are mutually exclusive")
        password = sys.stdin.read().rstrip("\r\n")
    if (username is None or password is None) and not sys.stdin.isatty():
        raise Failure("Cannot perform an interactive login from a non TTY device")
    username = username or click.prompt("Username")
    password = password if password is not None else click.prompt("Password", hide_input=True)
    asked = {"username": username, "password": password, "serveraddress": address}
    answer = app.client.post("/auth", None, asked)
    app.config.remember(address, username, password, (answer or {}).get("IdentityToken", ""))
    if not app.config.document.get("credsStore"):
        click.echo(
            f"WARNING! Your credentials are stored unencrypted in '{app.config.path}'.\n"
            "Configure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/go/credential-store/\n",
            err=True,
        )
    click.echo((answer or {}).get("Status") or "Login Succeeded")


@click.command()
@click.argument("server", required=False)
@click.pass_obj
def logout(app: App, /, server: str | None) -> None:
    """Log out from a registry."""
    address = _address(server)
    if app.config.forget(address):
        click.echo(f"Removing login credentials for {address}")
    else:
        click.echo(f"Not logged in to {address}")


def _address(server: str | None) -> str:
    if not server or server in ("docker.io", "index.docker.io"):
        return references.HUB
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]
