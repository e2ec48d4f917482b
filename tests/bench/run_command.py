"""(b) ``ctr run --rm IMAGE ID true``, Debian's ctr on both daemons: what a user waits for."""

from __future__ import annotations

import argparse
import subprocess
import time
from itertools import count
from typing import Any

from bench.daemons import Daemon, Pair, interleaved
from bench.report import summary
from support.images import BUSYBOX

_numbers = count()


def one(daemon: Daemon) -> float:
    command = daemon.ctr("run", "--rm", BUSYBOX, f"run-{next(_numbers)}", "true")
    started = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    for daemon in (pair.ours, pair.go):
        subprocess.run(
            daemon.ctr("images", "import", str(pair.archive)), check=True, stdout=subprocess.DEVNULL
        )
        one(daemon)
    times = interleaved(pair, options.rounds, lambda d: [one(d) for _ in range(options.per_round)])
    return {"ctr run --rm busybox true": summary(times)}
