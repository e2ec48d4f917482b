"""``docker``: one table of commands, each loaded when it is asked for."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from longshore.docker.api import Failure
from longshore.docker.app import App

VERSION = "28.1.1-longshore"

# Command -> where it is.
CONTAINER = {
    "attach": "run:attach",
    "commit": "images:commit",
    "cp": "copying:cp",
    "create": "run:create",
    "diff": "containers:diff",
    "exec": "run:execute",
    "export": "copying:export",
    "inspect": "inspecting:container",
    "kill": "containers:kill",
    "logs": "containers:logs",
    "pause": "containers:pause",
    "port": "containers:port",
    "prune": "containers:prune",
    "rename": "containers:rename",
    "restart": "containers:restart",
    "rm": "containers:rm",
    "run": "run:run",
    "start": "run:start",
    "stats": "containers:stats",
    "stop": "containers:stop",
    "top": "containers:top",
    "unpause": "containers:unpause",
    "update": "containers:update",
    "wait": "containers:wait",
}
IMAGE = {
    "build": "building:build",
    "history": "images:history",
    "import": "images:import_",
    "inspect": "inspecting:image",
    "load": "images:load",
    "ls": "images:ls",
    "prune": "images:prune",
    "pull": "images:pull",
    "push": "images:push",
    "rm": "images:rm",
    "save": "images:save",
    "tag": "images:tag",
}
NETWORK = {
    name: f"networks:{name}" for name in ("connect", "create", "disconnect", "inspect", "ls", "prune", "rm")
}
VOLUME = {name: f"volumes:{name}" for name in ("create", "inspect", "ls", "prune", "rm")}
SYSTEM = {name: f"system:{name}" for name in ("df", "events", "info", "prune")}
GROUPS = {
    "container": (
        "Manage containers",
        CONTAINER | {"ls": "containers:ls", "list": "containers:ls", "ps": "containers:ls"},
    ),
    "image": ("Manage images", IMAGE | {"list": "images:ls"}),
    "network": ("Manage networks", NETWORK | {"list": "networks:ls", "remove": "networks:rm"}),
    "volume": ("Manage volumes", VOLUME | {"list": "volumes:ls", "remove": "volumes:rm"}),
    "system": ("Manage Docker", SYSTEM),
    "builder": ("Manage builds", {"build": "building:build", "prune": "building:prune"}),
}
COMMANDS = {
    **{name: place for name, place in CONTAINER.items() if name not in ("inspect", "prune")},
    **{name: IMAGE[name] for name in ("build", "history", "import", "load", "pull", "push", "save", "tag")},
    "ps": "containers:ls",
    "images": "images:ls",
    "rmi": "images:rm",
    "inspect": "inspecting:anything",
    "events": "system:events",
    "info": "system:info",
    "version": "system:version",
    "login": "accounts:login",
    "logout": "accounts:logout",
    "search": "images:search",
}


class Commands(click.Group):
    """A group whose commands are names of places until they are used."""

    table: dict[str, str]

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*self.table, *self.commands})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.commands or name not in self.table:
            return self.commands.get(name)
        module, _, attribute = self.table[name].partition(":")
        command: click.Command = getattr(import_module(f"longshore.docker.{module}"), attribute)
        command.name = name
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["--help"]})
@click.option("--config", default=os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
@click.option("--context", "-c", default="")
@click.option("--debug", "-D", is_flag=True)
@click.option("--host", "-H", multiple=True)
@click.option("--log-level", "-l", default="info")
@click.option("--tls", is_flag=True)
@click.option("--tlscacert")
@click.option("--tlscert")
@click.option("--tlskey")
@click.option("--tlsverify", is_flag=True)
@click.version_option(VERSION, "--version", "-v", message="Docker version %(version)s, build longshore")
@click.pass_context
def docker(context: click.Context, /, **options: object) -> None:
    """A self-sufficient runtime for containers."""
    if options["context"] not in ("", "default"):
        raise Failure(f'context "{options["context"]}": not found: only the default context is known')
    context.obj = App(dict(options))


assert isinstance(docker, Commands)
docker.table = COMMANDS
for _name, (_words, _table) in GROUPS.items():
    _group = Commands(_name, help=_words, context_settings={"help_option_names": ["--help"]})
    _group.table = _table
    docker.add_command(_group)


def main() -> int:
    """The program; its exit status."""
    try:
        docker.main(prog_name="docker", standalone_mode=False)
    except Failure as failure:
        click.echo(failure, err=True)
        return failure.status
    except click.exceptions.Abort:
        return 130
    except click.UsageError as error:
        return _misused(error)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except ConnectionError as error:
        click.echo(f"error during connect: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1
    return 0


def _misused(error: click.UsageError) -> int:
    path = error.ctx.command_path if error.ctx else "docker"
    if isinstance(error, click.NoSuchOption):
        click.echo(f"unknown flag: {error.option_name}\nSee '{path} --help'.", err=True)
        return 125
    if error.message.startswith("No such command"):
        word = error.message.split("'")[1]
        click.echo(
            f"docker: unknown command: {path} {word}\n\nRun '{path} --help' for more information", err=True
        )
        return 1
    if isinstance(error, click.MissingParameter):
        click.echo(f"\"{path}\" requires at least 1 argument.\nSee '{path} --help'.", err=True)
        return 1
    click.echo(f"{path}: {error.format_message()}\nSee '{path} --help'.", err=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
