"""blkio (v1) and io (v2): weights and throttling of block devices."""

from __future__ import annotations

from longshore.linux.cgroup import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_THROTTLE = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)
_LISTS = (
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
    ("ioQueueRecursive", "io_queued_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive"),
    ("ioTimeRecursive", "time_recursive"),
    ("sectorsRecursive", "sectors_recursive"),
)


def v1(resources: dict[str, Any], present: set[str] | None = None) -> list[tuple[str, str]]:
    """What to write; ``present`` are the files there: with the BFQ scheduler weights have other names."""
    blkio = resources.get("blockIO") or {}
    prefix = "blkio.bfq" if present is not None and "blkio.weight" not in present else "blkio"
    writes = []
    if blkio.get("weight"):
        writes.append((prefix + ".weight", str(blkio["weight"])))
    if blkio.get("leafWeight"):
        writes.append(("blkio.leaf_weight", str(blkio["leafWeight"])))
    for device in blkio.get("weightDevice") or ():
        name = f"{device['major']}:{device['minor']}"
        if device.get("weight"):
            writes.append((prefix + ".weight_device", f"{name} {device['weight']}"))
        if device.get("leafWeight"):
            writes.append(("blkio.leaf_weight_device", f"{name} {device['leafWeight']}"))
    for key, file, _ in _THROTTLE:
        writes += [(file, f"{d['major']}:{d['minor']} {d['rate']}") for d in blkio.get(key) or ()]
    return writes


def v2(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """What to write into a v2 cgroup."""
    blkio = resources.get("blockIO") or {}
    writes = []
    if blkio.get("weight"):
        writes.append(("io.bfq.weight", str(blkio["weight"])))
    for device in blkio.get("weightDevice") or ():
        writes.append(("io.bfq.weight", f"{device['major']}:{device['minor']} {device['weight']}"))
    for key, _, word in _THROTTLE:
        writes += [("io.max", f"{d['major']}:{d['minor']} {word}={d['rate']}") for d in blkio.get(key) or ()]
    return writes


def stats_v1(path: str) -> dict[str, Any]:
    """Operations and bytes by device; the scheduler's counters where it keeps some, else the throttler's."""
    found = {key: _entries(f"{path}/blkio.bfq.{file}") for key, file in _LISTS}
    if not found["ioServicedRecursive"]:
        found["ioServiceBytesRecursive"] = _entries(path + "/blkio.throttle.io_service_bytes_recursive")
        found["ioServicedRecursive"] = _entries(path + "/blkio.throttle.io_serviced_recursive")
    return {key: entries for key, entries in found.items() if entries}


def _entries(path: str) -> list[dict[str, Any]]:
    entries = []
    for line in values.text(path).splitlines():
        words = line.replace(":", " ").split()
        if len(words) == 4 and words[3].isdigit():
            entries.append(
                {"major": int(words[0]), "minor": int(words[1]), "op": words[2], "value": int(words[3])}
            )
    return entries


_V2_OPERATIONS = (
    ("rbytes", "ioServiceBytesRecursive", "Read"),
    ("wbytes", "ioServiceBytesRecursive", "Write"),
    ("rios", "ioServicedRecursive", "Read"),
    ("wios", "ioServicedRecursive", "Write"),
)


def stats_v2(path: str) -> dict[str, Any]:
    """The same from io.stat."""
    found: dict[str, Any] = {}
    for line in values.text(path + "/io.stat").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        counts = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for word, key, operation in _V2_OPERATIONS:
            if word in counts:
                entry = {
                    "major": int(major),
                    "minor": int(minor),
                    "op": operation,
                    "value": int(counts[word]),
                }
                found.setdefault(key, []).append(entry)
    return found
