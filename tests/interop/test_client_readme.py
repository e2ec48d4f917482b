"""The examples of the two READMEs, run as they stand, in order: Python on Debian's daemon and on ours.

The commands run on ours only; that each of them does on Debian's, too, is `test_ctr_table.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from support import require
from support.daemon import LONGSHORE, Longshore
from support.realdaemon import RealContainerd

Daemon: TypeAlias = RealContainerd | Longshore

CLIENTS = Path(__file__).resolve().parents[2] / "clients" / "longshore"


def blocks(readme: str, language: str) -> list[str]:
    text = (CLIENTS / readme).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


EXAMPLES = blocks("client/README.md", "python")
COMMANDS = blocks("ctr/README.md", "sh")


def with_tools(daemon: Daemon) -> Daemon:
    subprocess.run(
        [LONGSHORE, "image", "from-host", "sh", "cat", "tr", "ls", "sleep", "-t", "host/tools"],
        env=environment(daemon),
        check=True,
        capture_output=True,
    )
    return daemon


@pytest.fixture(scope="module")
def ours() -> Iterator[Daemon]:
    require.root()
    with Longshore() as daemon:
        yield with_tools(daemon)


@pytest.fixture(scope="module")
def real() -> Iterator[Daemon]:
    require.root()
    require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2")
    with RealContainerd() as daemon:
        yield with_tools(daemon)


@pytest.fixture(scope="module", params=["real", "ours"])
def daemon(request: pytest.FixtureRequest) -> Daemon:
    found: Daemon = request.getfixturevalue(request.param)
    return found


def environment(daemon: Daemon) -> dict[str, str]:
    return {
        **os.environ,
        "CONTAINERD_ADDRESS": str(daemon.address),
        "CONTAINERD_NAMESPACE": daemon.namespace,
        "PATH": f"{LONGSHORE.parent}:{os.environ['PATH']}",
    }


def run(program: str, daemon: Daemon) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(daemon),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7 and len(COMMANDS) >= 2


def test_the_first_program_is_short_and_does_what_it_says(daemon: Daemon) -> None:
    """Twenty lines: a command in a container, fed, read as it prints, and its exit status."""
    program = EXAMPLES[0]
    assert len(program.splitlines()) <= 20
    assert run(program, daemon).splitlines() == ["HELLO FROM OUTSIDE", "its stderr: done", "exit status: 3"]


SAID = {
    1: "exit status: 0",
    2: "hello from web",
    3: "written result\nexit status: 137",
    4: "/tasks/exit",
    5: "docker.io/host/tools:latest",
    7: "['run', 'run']",
    8: '"nobody"',
}


@pytest.mark.parametrize("number", range(1, len(EXAMPLES)))
def test_the_other_programs(daemon: Daemon, number: int) -> None:
    assert SAID.get(number, "") in run(EXAMPLES[number], daemon)


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_commands(ours: Daemon, number: int, tmp_path: Path) -> None:
    """Line by line, each must end well; the shell has no pipefail, so `-e` sees the last of a pipe."""
    script = COMMANDS[number].replace("/tmp/", f"{tmp_path}/")
    done = subprocess.run(
        ["sh", "-exc", script],
        env=environment(ours),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
