"""What every command has: the client, the user's config, and how failures of several arguments are told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from longshore.docker.api import DEFAULT_HOST, Client, Failure
from longshore.docker.references import Config

if TYPE_CHECKING:
    import ssl


class App:
    """`options` are those before the command."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    @cached_property
    def config(self) -> Config:
        return Config(self._options["config"])

    @cached_property
    def client(self) -> Client:
        hosts = self._options["host"]
        if len(hosts) > 1:
            raise Failure("Specify only one -H")
        host = hosts[0] if hosts else os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        if "://" not in host:
            host = f"unix://{host}" if host.startswith("/") else f"tcp://{host}"
        return Client(host, self._tls() if host.startswith(("tcp", "https")) else None)

    def _tls(self) -> ssl.SSLContext | None:
        given = self._options
        verify = given["tlsverify"] or bool(os.environ.get("DOCKER_TLS_VERIFY"))
        if not (verify or given["tls"]):
            return None
        import ssl

        folder = os.environ.get("DOCKER_CERT_PATH") or given["config"]
        authority = given["tlscacert"] or f"{folder}/ca.pem"
        context = ssl.create_default_context(cafile=authority if os.path.exists(authority) else None)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate, key = given["tlscert"] or f"{folder}/cert.pem", given["tlskey"] or f"{folder}/key.pem"
        if os.path.exists(certificate):
            context.load_cert_chain(certificate, key)
        return context

    @contextmanager
    def prefixed(self, status: int) -> Iterator[None]:
        """Failures of run: with its name, and a status that no program returns."""
        try:
            yield
        except Failure as failure:
            text = f"docker: {failure}\n\nRun 'docker run --help' for more information"
            raise Failure(text, failure.status if failure.status > 1 else status) from None

    def each(self, names: Iterable[str], act: Callable[[str], Any], *, echo: bool = True) -> None:
        """Do it to all of them, tell each one's name or failure; status 1 at the end if any failed."""
        failed = False
        for name in names:
            try:
                said = act(name)
            except Failure as failure:
                click.echo(failure, err=True)
                failed = True
            else:
                if echo:
                    click.echo(said if isinstance(said, str) else name)
        if failed:
            sys.exit(1)


def filters(given: Iterable[str]) -> dict[str, list[str]] | None:
    """``--filter name=value`` as the API has them."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise Failure("bad format of filter (expected name=value)")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return found or None


def confirmed(warning: str, force: bool) -> bool:
    """Ask before what can't be undone."""
    return force or click.confirm(f"WARNING! {warning}\nAre you sure you want to continue?", default=False)
