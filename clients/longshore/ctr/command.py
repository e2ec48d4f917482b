"""What every command of ctr shares: the global options, the client, errors with a hint.

A command is an ``async def`` that gets a client first and its parameters by
name; `command` makes a click command of it. Modules import the SDK's nouns
inside their functions or through the client, and click at the top: the start
of ``ctr`` is a feature. So it speaks by `longshore.client.wire`, and a command
that is `plain` does without an event loop, half of its start otherwise.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import click

from longshore.api import errors

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.client.connection import Connection
    from longshore.client.wire.channel import Channel

_NO_IMAGE = re.compile(r'image "(.+)": not found')

P = ParamSpec("P")
T = TypeVar("T")

# What a user can do about an error, by its class; `{address}` and the rest come from the settings.
HINTS: dict[type[errors.Error], str] = {
    errors.Unavailable: (
        "is containerd running at {address}? Start it (longshore containerd --address {address}) "
        "or name another socket with --address or CONTAINERD_ADDRESS"
    ),
    errors.DeadlineExceeded: "the daemon did not answer in time; --timeout sets how long to wait",
    errors.Unimplemented: "this daemon does not offer that call; `ctr plugins ls` shows what it has",
    errors.PermissionDenied: "the socket {address} belongs to root: try sudo",
}


class Settings(NamedTuple):
    """The global options."""

    address: str
    namespace: str
    timeout: float
    connect_timeout: float
    debug: bool


class Failure(click.ClickException):
    """An error as ctr shows it: ``ctr: what happened``, and what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: Any = None) -> None:
        click.echo(f"ctr: {self.message}", err=True, file=file)
        if self.hint:
            click.echo(f"  hint: {self.hint}", err=True, file=file)


def command(
    *arguments: Callable[[Any], Any], name: str, plain: bool = False, bulk: bool = False, **attributes: Any
) -> Callable[[Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, int | None]]], click.Command]:
    """Make a click command of an ``async def`` that takes a client. `arguments` are click's decorators.

    A `plain` one awaits nothing but the daemon's answers, one after the other. A `bulk` one moves so much that
    grpc's own channel, which sends to the original's small windows with half the work, is worth its import.
    """

    def decorate(
        function: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, int | None]],
    ) -> click.Command:
        @click.pass_obj
        def run(settings: Settings, /, *args: P.args, **kwargs: P.kwargs) -> None:
            status = serve(settings, lambda client: function(client, *args, **kwargs), plain, bulk)
            if status:
                raise click.exceptions.Exit(status)

        run.__doc__ = function.__doc__
        wrapped: Any = run
        for argument in reversed(arguments):
            wrapped = argument(wrapped)
        make: Callable[[Any], click.Command] = click.command(name, **attributes)
        return make(wrapped)

    return decorate


def serve(
    settings: Settings,
    work: Callable[[AsyncClient], Coroutine[Any, Any, T]],
    plain: bool = False,
    bulk: bool = False,
) -> T:
    """Run `work` with a client, and turn what it raises into a `Failure`."""
    try:
        if plain and not settings.timeout and not settings.connect_timeout:
            return _plainly(settings, work)
        import asyncio  # 30 ms that many needn't pay

        return asyncio.run(_with_client(settings, work, bulk))
    except errors.Error as error:
        if settings.debug:
            raise
        raise failure(error, settings) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
    except TimeoutError:
        raise failure(errors.DeadlineExceeded("context deadline exceeded"), settings) from None
    except UnicodeEncodeError as error:  # a name with bytes that are no text can't be put into a request
        raise Failure(f"{error.object!r} is no UTF-8") from None
    except OSError as error:
        if settings.debug:
            raise
        raise Failure(str(error)) from None


def _connection(settings: Settings, channel: Channel | None) -> Connection:
    from longshore.client.connection import Connection

    return Connection(settings.address, settings.namespace, channel=channel)


def _plainly(settings: Settings, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
    from longshore.client.client import AsyncClient
    from longshore.client.wire import blocking

    connection = _connection(settings, blocking.channel(settings.address))
    try:
        return blocking.run(work(AsyncClient(connection=connection)))
    finally:
        blocking.run(connection.close())


async def _with_client(
    settings: Settings, work: Callable[[AsyncClient], Coroutine[Any, Any, T]], bulk: bool
) -> T:
    import asyncio

    from longshore.client.client import AsyncClient
    from longshore.client.wire import loop

    connection = _connection(settings, None if bulk else loop.channel(settings.address))
    try:
        if settings.connect_timeout:
            await asyncio.wait_for(_ready(connection), settings.connect_timeout)
        working = work(AsyncClient(connection=connection))
        return await (asyncio.wait_for(working, settings.timeout) if settings.timeout else working)
    finally:
        await connection.close()


async def _ready(connection: Connection) -> None:
    """Until there is a daemon, which may still be starting."""
    import asyncio

    while True:
        try:
            return await connection.channel.channel_ready()
        except errors.Unavailable:
            await asyncio.sleep(0.05)


def failure(error: errors.Error, settings: Settings) -> Failure:
    if isinstance(error, errors.NotFound) and (match := _NO_IMAGE.fullmatch(error.message)):
        return Failure(error.message, _image_hint(match[1]))
    if error.hint:  # whoever raised it knows better than its class does
        return Failure(error.message, error.hint)
    hint = next((text for kind, text in HINTS.items() if isinstance(error, kind)), "")
    message = error.message
    if isinstance(error, errors.Unavailable) and "connect" in message:
        if not os.path.exists(settings.address):
            message = f"no socket at {settings.address}"
        elif not os.access(settings.address, os.W_OK):
            message, hint = f"permission denied on {settings.address}", HINTS[errors.PermissionDenied]
        else:
            message = f"nobody answers at {settings.address}: {message}"
    return Failure(message, hint.format(address=settings.address))


def _image_hint(name: str) -> str:
    from longshore.client.references import normalize

    try:
        full = normalize(name)
    except errors.InvalidArgument:
        full = name
    if full != name:
        return (
            f"names are taken as they are: do you mean {full}? `ctr images ls -q` lists those that are here"
        )
    return f"`ctr images ls -q` lists those that are here, `ctr images pull {name}` fetches it"


class Nouns(click.Group):
    """A group whose members are found by name in a table and imported when called.

    The table holds ``name: ("module:attribute", help)``; aliases point into it. `unbuilt` are nouns of the
    original that we don't have, each with what to do instead.
    """

    def __init__(
        self,
        *args: Any,
        members: dict[str, tuple[str, str]],
        aliases: dict[str, str],
        unbuilt: dict[str, str],
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self._members = members
        self._aliases = aliases
        self._unbuilt = unbuilt

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._members.get(self._aliases.get(cmd_name, cmd_name))
        if cmd_name in self._unbuilt:
            raise Failure(f"{cmd_name} is not built yet", self._unbuilt[cmd_name])
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, from the table: nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._members.items()])


class Verbs(click.Group):
    """A group of a noun's verbs, with aliases (``ls`` for ``list``).

    `unbuilt` are verbs of the original that we don't have yet, each with what to do instead: better than to
    be told that there is no such command.
    """

    def __init__(
        self,
        *args: Any,
        aliases: dict[str, str] | None = None,
        unbuilt: dict[str, str] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.aliases = aliases or {}
        self.unbuilt = unbuilt or {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.unbuilt and ctx.command is self:
            raise Failure(f"{self.name} {cmd_name} is not built yet", self.unbuilt[cmd_name])
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))


LIST = {"ls": "list"}
REMOVE = {"rm": "delete", "del": "delete", "remove": "delete"}

# A container's own command line follows: its options aren't ours.
PASS_ON = {"allow_interspersed_args": False}


def warn(text: str) -> None:
    print(f"ctr: {text}", file=sys.stderr)


def parse_labels(words: tuple[str, ...]) -> dict[str, str]:
    """``key=value`` sets; ``key`` alone (or ``key=``) is an empty value, which removes."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}
