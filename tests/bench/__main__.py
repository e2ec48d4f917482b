"""``make bench``: ours and Debian's containerd side by side, in the same run.

    python -m bench [--quick] [--rounds N] [--per-round N] [--containers N] [--content MIB] [--only SCENARIO] ...

Both daemons run at the same time on one private host (mounts, network, pids of
its own, /run on a tmpfs as on a real machine) and take turns: a round for one,
a round for the other, the order changing, so that a busy neighbour hits both.
Reported are p50 and p99 of each, and the ratios ours/Go: less is better.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import (
    calls,
    charts,
    cold,
    content,
    ctr_commands,
    daemons,
    dockers,
    execs,
    lifecycle,
    memory,
    pull,
    records,
    report,
    run_command,
    runtimes,
    snapshots,
    starts,
)
from support import goparts

SCENARIOS = {
    "lifecycle": lifecycle.measure,
    "run": run_command.measure,
    "ctr": ctr_commands.measure,
    "exec": execs.measure,
    "runc": runtimes.measure,
    "starts": starts.measure,
    "calls": calls.measure,
    "snapshots": snapshots.measure,
    "content": content.measure,
    "pull": pull.measure,
    "cold": cold.measure,
    "records": records.measure,
    "docker": dockers.measure,
    "memory": memory.measure,
}
INSIDE = "LONGSHORE_BENCH_INSIDE"
NEEDED = ("containerd", "ctr", "containerd-shim-runc-v2", "runc", "busybox")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="ours and the Go parts side by side")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each daemon")
    parser.add_argument("--per-round", type=int, default=5, help="measurements in a turn")
    parser.add_argument("--containers", type=int, default=100, help="containers of the memory scenario")
    parser.add_argument("--content", type=int, default=1024, help="MiB that are written, read and printed")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: shows that it works")
    parser.add_argument("--execs", type=int, default=10, help="execs in each of them")
    parser.add_argument("--only", choices=sorted(SCENARIOS), action="append", help="leave the others out")
    parser.add_argument("--output", type=Path, default=goparts.PROJECT / ".cache/bench/latest.json")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.per_round, options.containers, options.content = 2, 2, 10, 64
    return options


def enter_private_host() -> None:
    """Run again as the second process of a private host; it ends with us, and all that is in it with it."""
    setup = 'mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up && exec "$0" "$@"'
    os.environ[INSIDE] = "1"
    os.execvp(
        "unshare",
        [
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("--propagation", "private", "sh", "-c", setup),
            *(sys.executable, "-m", "bench", *sys.argv[1:]),
        ],
    )


def main() -> int:
    options = parse()
    if os.geteuid() != 0:
        print("bench: needs root, as both daemons do (try: sudo make bench)", file=sys.stderr)
        return 1
    try:
        for part in NEEDED:
            goparts.path(part)
    except goparts.Missing as error:
        print(f"bench: nothing to compare with: {error}", file=sys.stderr)
        return 1
    if INSIDE not in os.environ:
        enter_private_host()
    results: dict[str, Any] = {}
    with daemons.pair() as pair:
        for name in options.only or SCENARIOS:
            print(f"bench: {name} ...", file=sys.stderr)
            started = time.perf_counter()
            results[name] = SCENARIOS[name](pair, options)
            print(f"bench: {name} took {time.perf_counter() - started:.0f} s", file=sys.stderr)
    document = {
        "machine": machine(),
        "options": {k: str(v) for k, v in vars(options).items()},
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2))
    options.output.with_suffix(".md").write_text(report.markdown(document))
    charts.draw(results, options.output.parent)
    report.show(results)
    print(f"written to {options.output}", file=sys.stderr)
    return 0


def version(part: str) -> str:
    """The first line of what a Go part says of itself."""
    answer = subprocess.run([goparts.path(part), "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()[0]


def machine() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "go": " and ".join(version(name) for name in ("containerd", "runc")),
    }


if __name__ == "__main__":
    sys.exit(main())
