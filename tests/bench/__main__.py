"""``make bench``: ours and the Go parts side by side, in the same run.

    python -m bench [--quick] [--only SCENARIO ...] [--rounds N] [--second-run FILE] [--output FILE]
    python -m bench --publish RUN [--also FILE ...] [--second-run FILE]

Both daemons run at the same time on one private host (`bench.private`) and take
turns, so that a busy neighbour hits both. The first form measures; the second
writes a run's tables into the README and its charts to docs/bench.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import (
    calls,
    charts,
    cold,
    content,
    ctr_run,
    daemons,
    dockers,
    execs,
    lifecycle,
    machine,
    private,
    publish,
    pull,
    records,
    report,
    runtimes,
    snapshots,
    starts,
)
from support import goparts

SCENARIOS = {
    "run": ctr_run.measure,
    "ctr": ctr_run.commands,
    "lifecycle": lifecycle.measure,
    "exec": execs.measure,
    "starts": starts.measure,
    "memory": starts.memory,
    "runc": runtimes.measure,
    "calls": calls.measure,
    "snapshots": snapshots.measure,
    "content": content.measure,
    "pull": pull.measure,
    "cold": cold.measure,
    "records": records.measure,
    "docker": dockers.measure,
    "shims": starts.shims,
}
BY_NAME_ONLY = ("shims",)  # takes as long as half of the others together
NEEDED = ("containerd", "ctr", "containerd-shim-runc-v2", "runc", "crun", "busybox", "docker-registry")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="ours and the Go parts side by side")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: shows that it works")
    parser.add_argument(
        "--only", choices=sorted(SCENARIOS), action="append", help="this one (repeatable); shims runs only so"
    )
    parser.add_argument("--rounds", type=int, default=12, help="turns of each side; of long work a third")
    parser.add_argument("--per-round", type=int, default=5, help="pieces of work in a turn")
    parser.add_argument("--containers", type=int, default=100, help="of the scenario `starts`")
    parser.add_argument("--content", type=int, default=1024, help="MiB that are written, read and printed")
    parser.add_argument(
        "--second-run", type=Path, metavar="FILE", help="another run's JSON: its ratios beside these"
    )
    parser.add_argument(
        "--publish", type=Path, metavar="FILE", help="measure nothing: this run, into the README"
    )
    parser.add_argument(
        "--also",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="with --publish: its scenarios too",
    )
    parser.add_argument("--output", type=Path, default=goparts.PROJECT / ".cache/bench/latest.json")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.per_round, options.containers, options.content = 2, 2, 10, 64
    options.few = max(2, options.rounds // 3)  # rounds of what takes seconds
    options.repeats = max(3, options.per_round)
    options.say = say
    return options


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    second = json.loads(options.second_run.read_text()) if options.second_run else None
    if options.publish:
        runs = [json.loads(file.read_text()) for file in (options.publish, *options.also)]
        publish.write(report.together(runs), second, goparts.PROJECT)
        return 0
    if os.geteuid() != 0:
        say("needs root, as both daemons do (try: sudo make bench)")
        return 1
    if private.INSIDE in os.environ:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and out of every `with`
        run = measure(options)
        write(run, second, options)
        return 1 if run["failed"] else 0
    try:
        for part in NEEDED:
            goparts.path(part)
    except goparts.Missing as error:
        say(f"nothing to compare with: {error}")
        return 1
    return private.run_inside(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The run's document. A scenario that fails is told of, and the others go on."""
    described, results, seconds, failed = machine.describe(), {}, {}, {}
    with daemons.pair() as pair:
        for name in options.only or [name for name in SCENARIOS if name not in BY_NAME_ONLY]:
            say(f"{name} ...")
            started = time.perf_counter()
            try:
                results[name] = SCENARIOS[name](pair, options)
            except Exception as error:
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {error}"
            seconds[name] = round(time.perf_counter() - started)
            say(f"{name} took {seconds[name]} s")
    described["load_after"] = os.getloadavg()
    kept = ("rounds", "per_round", "containers", "content")
    return {
        "machine": described,
        "quick": options.quick,
        "options": {name: getattr(options, name) for name in kept},
        "seconds": seconds,
        "failed": failed,
        "scenarios": results,
    }


def write(run: report.Run, second: report.Run | None, options: argparse.Namespace) -> None:
    """JSON, Markdown and charts side by side, and the tables on the terminal."""
    output: Path = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(run, indent=1))
    output.with_suffix(".md").write_text(report.markdown(run, second))
    report.show(run, second)
    report.complain(run, say)
    for name, reason in run["failed"].items():
        say(f"FAILED: {name}: {reason}")
    try:
        charts.draw(run, output.parent)
    except ImportError:
        say("no charts: matplotlib isn't installed (pip install 'longshore[bench]')")
    say(f"{sum(run['seconds'].values())} s; written to {output}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
