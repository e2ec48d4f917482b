"""events: figures of a container's cgroup."""

from __future__ import annotations

import select
import sys

from longshore.linux import files
from longshore.oci import codec, state
from longshore.oci.cli import BOOL, VALUE, UsageError
from longshore.oci.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from longshore.oci.cli import Call


def stats(root: str, id: str) -> dict[str, Any]:
    """The ``data`` of runc's stats event: cpu, memory, pids, ... (nanoseconds, bytes)."""
    container = state.load(root, id)
    container.require("events")
    figures = container.cgroup.stats()
    figures["intel_rdt"] = {}
    figures["network_interfaces"] = None
    return figures


def interfaces(pid: int) -> list[dict[str, Any]]:
    """The traffic counters of a process' network namespace, from /proc/PID/net/dev."""
    names = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped")
    found = []
    for line in files.read_bounded(f"/proc/{pid}/net/dev").decode().splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        entry: dict[str, Any] = {"name": name.strip()}
        entry.update(zip(names, numbers[:4], strict=False))
        entry.update(zip((word.replace("rx", "tx") for word in names), numbers[8:12], strict=False))
        found.append(entry)
    return found


FLAGS = {"stats": BOOL, "interval": VALUE}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc events [--stats] [--interval 5s] ID``: figures once, or again and again with out-of-memory events"""
    container = call.arguments[0]
    interval = _seconds(call.value("interval", "5s"))
    if call.on("stats"):
        _print("stats", container, stats(call.root, container))
        return 0
    loaded = state.load(call.root, container)
    loaded.require("events")
    pidfd = loaded.process.open()
    kills = loaded.cgroup.oom_kills()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while not poll.poll(interval * 1000):
        now = loaded.cgroup.oom_kills()
        if now != kills:
            _print("oom", container, None)
            kills = now
        _print("stats", container, stats(call.root, container))
    return 0


def _print(kind: str, container: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container}
    if data is not None:
        event["data"] = data
    sys.stdout.write(codec.dumps(event) + "\n")
    sys.stdout.flush()


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit, factor in units.items():
        digits = text.removesuffix(unit)
        number = digits.removeprefix("-").replace(".", "", 1)
        if digits != text and number.isascii() and number.isdecimal():
            if float(digits) <= 0:
                raise RuntimeFailure("duration interval must be greater than 0")
            return float(digits) * factor
    raise UsageError(f'invalid value "{text}" for flag -interval: parse error')
