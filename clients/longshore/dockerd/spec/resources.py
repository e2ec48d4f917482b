"""The limits of a HostConfig as the runtime takes them: for start and for update."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from longshore.api.errors import InvalidArgument
from longshore.dockerd.records import Resources, ThrottleDevice, WeightDevice

_PERIOD: Final = 100_000  # microseconds, of NanoCpus
_NANO: Final = 1_000_000_000


def make(wishes: Resources) -> dict[str, Any]:
    """Without devices. 0 is "no wish" and left out, so that the cgroup keeps what it has."""
    parts = {"memory": _memory(wishes), "cpu": _cpu(wishes), "pids": _pids(wishes), "blockIO": _block(wishes)}
    return {name: part for name, part in parts.items() if part}


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _memory(wishes: Resources) -> dict[str, Any]:
    found = _present(
        limit=wishes.memory,
        reservation=wishes.memory_reservation,
        swap=wishes.memory_swap,
        kernel=wishes.kernel_memory,
        kernelTCP=wishes.kernel_memory_tcp,
        disableOOMKiller=wishes.oom_kill_disable,
    )
    # 0 is a wish here, and -1 the API's word for none.
    if wishes.memory_swappiness is not None and wishes.memory_swappiness >= 0:
        found["swappiness"] = wishes.memory_swappiness
    return found


def _cpu(wishes: Resources) -> dict[str, Any]:
    period, quota = wishes.cpu_period, wishes.cpu_quota
    if wishes.nano_cpus:
        period, quota = _PERIOD, wishes.nano_cpus * _PERIOD // _NANO
    return _present(
        shares=wishes.cpu_shares,
        quota=quota,
        period=period,
        realtimeRuntime=wishes.cpu_realtime_runtime,
        realtimePeriod=wishes.cpu_realtime_period,
        cpus=wishes.cpuset_cpus,
        mems=wishes.cpuset_mems,
    )


def _pids(wishes: Resources) -> dict[str, int]:
    """0 and -1 both take a limit away; null leaves it."""
    if wishes.pids_limit is None:
        return {}
    return {"limit": wishes.pids_limit if wishes.pids_limit > 0 else -1}


def _block(wishes: Resources) -> dict[str, Any]:
    return _present(
        weight=wishes.blkio_weight,
        weightDevice=[_weight(device) for device in wishes.blkio_weight_device or ()],
        throttleReadBpsDevice=_throttles(wishes.blkio_device_read_bps or ()),
        throttleWriteBpsDevice=_throttles(wishes.blkio_device_write_bps or ()),
        throttleReadIOPSDevice=_throttles(wishes.blkio_device_read_iops or ()),
        throttleWriteIOPSDevice=_throttles(wishes.blkio_device_write_iops or ()),
    )


def _numbers(path: str) -> dict[str, int]:
    try:
        device = os.stat(path).st_rdev
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise InvalidArgument(f"stat {path}: {why}") from error
    return {"major": os.major(device), "minor": os.minor(device)}


def _weight(device: WeightDevice) -> dict[str, int]:
    return {**_numbers(device.path), "weight": device.weight}


def _throttles(devices: Sequence[ThrottleDevice]) -> list[dict[str, int]]:
    return [{**_numbers(device.path), "rate": device.rate} for device in devices]
