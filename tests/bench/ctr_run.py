"""``ctr run --rm IMAGE ID true``: what a user waits for; by Debian's ctr, and by ours, on both daemons.

And what the command itself costs: our ctr against Debian's, both on our daemon.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Sequence
from itertools import count

from bench import private
from bench.daemons import LONGSHORE, Daemon, Pair
from bench.measure import Program, Turn, take_turns
from bench.report import Figures, measures
from support import goparts
from support.images import BUSYBOX

_numbers = count()


def linked() -> str:
    """The launcher of our ctr that `longshore link` writes."""
    folder = private.folder() / "links"
    if not folder.exists():
        subprocess.run([*LONGSHORE, "link", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return str(folder / "ctr")


def works(daemon: Daemon, ctr: str) -> None:
    """RuntimeError unless a container's output and exit status come through."""
    command = [ctr, *daemon.ctr()[1:], "run", "--rm", BUSYBOX, f"run-{next(_numbers)}"]
    done = subprocess.run(
        [*command, "sh", "-c", "echo done; exit 7"], capture_output=True, text=True, check=False
    )
    if (done.stdout, done.returncode) != ("done\n", 7):
        raise RuntimeError(f"{ctr} on {daemon.name}: {done.returncode}, {done.stdout!r}, {done.stderr!r}")


def both(pair: Pair) -> tuple[str, str]:
    """Debian's ctr and ours, shown to work on both daemons; the image is there."""
    programs = str(goparts.path("ctr")), linked()
    for daemon in pair.sides:
        daemon.ask("images", "import", str(pair.archive))
        for program in programs:
            works(daemon, program)
    return programs


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    go, ours = both(pair)

    def runs(name: str, chosen: Callable[[Daemon], str]) -> Callable[[Daemon, Turn], None]:
        def work(daemon: Daemon, turn: Turn) -> None:
            run = Program(daemon.name, [chosen(daemon), *daemon.ctr()[1:], "run", "--rm", BUSYBOX])
            for _ in range(options.per_round):
                with turn.timed(name):
                    run(f"run-{next(_numbers)}", "true")

        return work

    debians, whole = "ctr run --rm, Debian's ctr on both", "ctr run --rm, each with its own ctr"
    found = take_turns(pair.sides, options.rounds, runs(debians, lambda _: go))
    found |= take_turns(
        pair.sides, options.rounds, runs(whole, lambda daemon: ours if daemon is pair.ours else go)
    )
    for daemon in pair.sides:
        daemon.nothing_runs()
    return measures(found, aims={debians: 0.5, whole: 0.5})


def commands(pair: Pair, options: argparse.Namespace) -> dict[str, Figures]:
    """Our ctr and Debian's on one daemon."""
    (go, ours), daemon = both(pair), pair.ours
    words: dict[str, Callable[[], Sequence[str]]] = {
        "version": lambda: ["version"],
        "images ls": lambda: ["images", "ls"],
        "run --rm": lambda: ["run", "--rm", BUSYBOX, f"c-{next(_numbers)}", "true"],
    }
    programs = [
        Program(name, [program, *daemon.ctr()[1:]], daemon.account)
        for name, program in (("ours", ours), ("go", go))
    ]

    def work(program: Program, turn: Turn) -> None:
        for verb, arguments in words.items():
            for _ in range(options.per_round):
                with turn.timed(f"our ctr against Debian's, on our daemon: {verb}"):
                    program(*arguments())

    found = take_turns(programs, max(2, options.rounds // 2), work)
    daemon.nothing_runs()
    return measures(found)
