"""(f) Our ctr against Debian's, both on our daemon: what the command itself costs."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from bench.daemons import Pair
from bench.report import summary
from support.images import BUSYBOX

_numbers = count()


def timed(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - started


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    daemon = pair.ours
    subprocess.run(daemon.ctr("images", "import", str(pair.archive)), check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="ls-bench-link-") as folder:
        subprocess.run(
            [sys.executable, "-m", "longshore.launcher", "link", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        programs = {"ours": [str(Path(folder, "ctr")), *daemon.ctr()[1:]], "go": daemon.ctr()}
        verbs: dict[str, Callable[[], list[str]]] = {
            "ctr version": lambda: ["version"],
            "ctr images ls": lambda: ["images", "ls"],
            "ctr run --rm busybox true (our daemon)": lambda: [
                "run",
                "--rm",
                BUSYBOX,
                f"c-{next(_numbers)}",
                "true",
            ],
        }
        results: dict[str, Any] = {}
        for title, words in verbs.items():
            times: dict[str, list[float]] = {"ours": [], "go": []}
            for number in range(options.rounds):
                for name in ("ours", "go") if number % 2 == 0 else ("go", "ours"):
                    times[name] += [timed([*programs[name], *words()]) for _ in range(options.per_round)]
            results[f"{title}: our ctr / Go's"] = summary(times)
    return results
