"""Calling a `ctr`, Debian's or ours, and making its answers easy to assert on."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

TAKES_FIFOS = {"run", "start", "exec"}
NOUNS = {"t", "task", "tasks"}


def arguments(words: Sequence[str | Path], fifos: Path) -> list[str]:
    """`words` with ``--fifo-dir`` where a verb takes it, because ctr's default lies below the host's /run."""
    line = [str(word) for word in words]
    verb = next((at for at, word in enumerate(line) if word not in NOUNS), 0)
    if line[verb : verb + 1] and line[verb] in TAKES_FIFOS and (line[0] in NOUNS or line[verb] == "run"):
        line[verb + 1 : verb + 1] = ["--fifo-dir", str(fifos)]
    return line


class CommandFailed(AssertionError):
    """A command that should have ended with 0; shows what it said."""


def checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """`done` itself; raises CommandFailed with its output unless its status is 0."""
    if done.returncode != 0:
        command = " ".join(map(str, done.args))
        raise CommandFailed(f"{command}\nstatus {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def rows(text: str) -> list[list[str]]:
    """The words of each line of a table below its heading."""
    return [line.split() for line in text.splitlines()[1:] if line.strip()]


def column(text: str, number: int = 0) -> list[str]:
    return [row[number] for row in rows(text)]
