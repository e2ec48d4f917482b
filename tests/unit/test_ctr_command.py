"""ctr as a program: its help, what it imports, and how it fails. No daemon is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from longshore.api.errors import NotFound, Unavailable
from longshore.ctr.command import Settings, failure
from longshore.ctr.images import written
from longshore.ctr.main import ALIASES, NOUNS, cli

CTR = [sys.executable, "-m", "longshore.ctr.main"]


def ctr(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CTR, *words], capture_output=True, text=True, timeout=120, check=False)


def members(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = [path]
    for name in command.list_commands(context):
        member = command.get_command(context, name)
        assert member is not None, (*path, name)
        found += members(member, (*path, name))
    return found


COMMANDS = members(cli)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert command.get_short_help_str()
    assert click.Context(command, info_name="x").get_help()


def test_the_verbs_of_the_original() -> None:
    paths = {" ".join(path) for path in COMMANDS}
    assert {
        "run",
        "tasks exec",
        "tasks metrics",
        "containers info",
        "images import",
        "snapshots tree",
    } <= paths
    assert set(ALIASES.values()) <= set(NOUNS)


def test_help_imports_no_grpc() -> None:
    """`ctr --help` and mistakes must be quick."""
    code = (
        "import sys; from longshore.ctr.main import main; sys.argv=['ctr','--help']; main()\n"
        "print('grpc' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "containers" in done.stdout
    assert done.stderr.strip() == "False"


def test_version_loads_what_it_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from longshore.ctr.main import main\n"
        f"sys.argv=['ctr','-a','{tmp_path}/none.sock','version']; main()\n"
        "print([m for m in sys.modules if m.startswith('longshore.api.services') and m.count('.') == 5])\n"
        "print({'rich', 'grpc', 'asyncio', 'importlib.metadata'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["['longshore.api.services.version.v1.version_pb2']", "set()"]


def test_nobody_listens(tmp_path: Path) -> None:
    done = ctr("-a", str(tmp_path / "none.sock"), "images", "ls")
    assert done.returncode == 1
    assert "no socket at" in done.stderr and "hint: is containerd running" in done.stderr


def test_usage_errors_are_2() -> None:
    assert ctr("run").returncode == 2 or "must be given" in ctr("run").stderr
    assert ctr("nonsense").returncode == 2


def test_hints() -> None:
    settings = Settings("/run/x.sock", "default", 0, 0, False)
    assert "/run/x.sock" in failure(Unavailable("gone"), settings).hint
    assert failure(NotFound("image: not found"), settings).hint == ""
    assert "docker.io/host/tools:latest?" in failure(NotFound('image "host/tools": not found'), settings).hint
    assert "images pull x.io/y:1" in failure(NotFound('image "x.io/y:1": not found'), settings).hint


def test_what_fails_leaves_no_half_file(tmp_path: Path) -> None:
    for before in ({}, {"a": "old"}):
        for name, text in before.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(ValueError), written(str(tmp_path / "a")) as file:
            file.write(b"half")
            raise ValueError
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    with written(str(tmp_path / "a")) as file:
        file.write(b"whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "whole"}


@pytest.mark.parametrize("words", [("sandboxes", "ls"), ("run", "--cni", "x", "y"), ("shim", "state", "x")])
def test_what_is_not_built_says_so(words: tuple[str, ...]) -> None:
    done = ctr(*words)
    assert done.returncode == 1
    assert "is not built yet" in done.stderr and "hint:" in done.stderr
