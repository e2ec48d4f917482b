"""Whether a body of create makes sense, and the defaults that inspect shows afterwards.

The words are the original's: clients and scripts look for them.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from copy import copy
from ipaddress import ip_address
from typing import Any, Final

from longshore.api.errors import InvalidArgument
from longshore.client.spec import READONLY_PATHS, unified_cgroups
from longshore.dockerd.records import ContainerConfig, HealthConfig, HostConfig, Resources, RestartPolicy
from longshore.dockerd.spec import devices, process, security
from longshore.dockerd.spec.namespaces import cgroupns_mode, ipc_mode
from longshore.dockerd.spec.settings import Settings

_MEGABYTE: Final = 1 << 20
_MINIMUM: Final = 6 * _MEGABYTE
_LIMIT_WORDS: Final = """
    core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack
"""
_LIMITS: Final = frozenset(_LIMIT_WORDS.split())
_POLICIES: Final = ("no", "always", "on-failure", "unless-stopped")
_MILLISECOND: Final = 1_000_000  # in nanoseconds


def create(config: ContainerConfig, host: HostConfig, settings: Settings) -> list[str]:
    """Check both and fill the defaults in; the warnings that the answer carries. Raises InvalidArgument.

    Volumes are checked by `points.plan`, networks by theirs.
    """
    _config(config)
    _modes(config, host)
    _ports(config, host)
    _hosts(host.extra_hosts or ())
    _restart(host)
    _security(host, settings)
    _adapt(host, settings)
    warnings = resources(host)
    if host.oom_kill_disable and host.memory == 0:
        warnings.append(_NO_LIMIT)
    if host.network_mode == "host" and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    return warnings


def _check(wrong: bool, words: str) -> None:
    if wrong:
        raise InvalidArgument(words)


def _config(config: ContainerConfig) -> None:
    folder = config.working_dir
    _check(
        bool(folder) and not folder.startswith("/"),
        f"the working directory '{folder}' is invalid, it needs to be an absolute path",
    )
    if folder:
        config.working_dir = "/" + posixpath.normpath(folder).lstrip("/")
    for entry in config.env or ():
        _check(not entry.partition("=")[0], f"invalid environment variable: {entry}")
    _check(bool(config.stop_timeout and config.stop_timeout < -1), "StopTimeout can't be below -1")
    if config.healthcheck:
        _health(config.healthcheck)


def _health(check: HealthConfig) -> None:
    times = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
    }
    for name, value in times.items():
        _check(value != 0 and value < _MILLISECOND, f"{name} in Healthcheck cannot be less than 1ms")
    _check(check.retries < 0, "Retries in Healthcheck cannot be negative")


def _modes(config: ContainerConfig, host: HostConfig) -> None:
    """Which namespaces go together with which wishes."""
    _check(not _shares(host.pid_mode, ("", "host")), f"invalid PID mode: {host.pid_mode}")
    _check(host.uts_mode not in ("", "host"), f"invalid UTS mode: {host.uts_mode}")
    _check(host.userns_mode not in ("", "host"), f"invalid userns mode: {host.userns_mode}")
    _check(
        host.cgroupns_mode not in ("", "host", "private"),
        f"invalid cgroup namespace mode: {host.cgroupns_mode}",
    )
    joined = host.network_mode.startswith("container:")
    _check(
        host.network_mode in ("container", "container:"),
        "Invalid network mode: invalid container format container:<name|id>",
    )
    conflicts: tuple[tuple[object, str], ...] = (
        (joined and config.hostname, "hostname and the network mode"),
        (host.uts_mode == "host" and config.hostname, "hostname and the UTS mode"),
        (
            joined and host.links,
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (joined and host.dns, "dns and the network mode"),
        (joined and host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        ((joined or host.network_mode == "host") and config.mac_address, "mac-address and the network mode"),
        (
            joined and (host.port_bindings or host.publish_all_ports),
            "port publishing and the container type network mode",
        ),
        (joined and config.exposed_ports, "port exposing and the container type network mode"),
        (
            host.network_mode == "host" and host.links,
            "host type networking can't be used with links. This would result in undefined behavior",
        ),
        (
            host.privileged
            and host.cgroupns_mode == "private"
            and not unified_cgroups()
            and host.userns_mode,
            "privileged and userns",
        ),
    )
    for wrong, words in conflicts:
        _check(bool(wrong), f"conflicting options: {words}")
    _check(
        host.isolation not in ("", "default"),
        f'invalid isolation "{host.isolation}": only "default" is supported',
    )


def _ports(config: ContainerConfig, host: HostConfig) -> None:
    """Of what is to be published: a range of the host's is one for one port of the container's."""
    for port, bindings in (host.port_bindings or {}).items():
        number = port.partition("/")[0]
        _check(bool(number) and not _is_port(number), f'invalid port specification: "{number}"')
        for binding in bindings or ():
            low, dash, high = binding.host_port.partition("-")
            fits = _is_port(low) and (not dash or (_is_port(high) and int(low) <= int(high)))
            _check(bool(binding.host_port) and not fits, f'invalid port specification: "{binding.host_port}"')


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _hosts(entries: Iterable[str]) -> None:
    """ "name:address", where an IPv6 address may have brackets; or "name=address"."""
    for entry in entries:
        name, _, address = entry.partition(":" if ":" in entry.split("=", 1)[0] else "=")
        _check(not name or not address, f'bad format for add-host: "{entry}"')
        if address == "host-gateway":
            continue
        try:
            ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise InvalidArgument(f'invalid IP address in add-host: "{address}"') from None


def _shares(mode: str, kinds: tuple[str, ...]) -> bool:
    return mode in kinds or (mode.startswith("container:") and len(mode) > len("container:"))


def _restart(host: HostConfig) -> None:
    restart_policy(host.restart_policy)
    _check(
        host.auto_remove and host.restart_policy.name not in ("", "no"),
        "can't create 'AutoRemove' container with restart policy",
    )


def restart_policy(policy: RestartPolicy) -> None:
    """Raises InvalidArgument; for update, too."""
    name, count = policy.name, policy.maximum_retry_count
    if name not in ("", *_POLICIES):
        known = "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        raise InvalidArgument(f"invalid restart policy: unknown policy '{name}'; {known}")
    if name == "on-failure":
        _check(count < 0, "invalid restart policy: maximum retry count cannot be negative")
    else:
        words = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        _check(count != 0, words + (" and cannot be negative" if count < 0 else ""))


def _security(host: HostConfig, settings: Settings) -> None:
    process.capabilities(host)
    security.parse(host.security_opt or (), settings)
    for rule in host.device_cgroup_rules or ():
        devices.parse_rule(rule)
    for limit in host.ulimits or ():
        _check(limit.name not in _LIMITS, f"invalid ulimit type: {limit.name}")
        unlimited = limit.hard == -1
        _check(
            not unlimited and (limit.soft > limit.hard or limit.soft == -1),
            f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}",
        )
    score = host.oom_score_adj
    _check(not -1000 <= score <= 1000, f"Invalid value {score}, range for oom score adj is [-1000, 1000]")
    if host.storage_opt:
        # No snapshotter of containerd's that we use has a quota at all; these are the words that are known.
        raise InvalidArgument(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option."
        )


def resources(wishes: Resources) -> list[str]:
    """The part that create and update share; warnings."""
    _memory(wishes)
    _cpu(wishes)
    if wishes.memory > 0 and wishes.memory_swap == 0:
        wishes.memory_swap = 2 * wishes.memory
    asked = [device.weight for device in wishes.blkio_weight_device or ()]
    warnings = _discard(wishes)
    weights = [wishes.blkio_weight] if wishes.blkio_weight else []
    for weight in (*weights, *asked):
        _check(not 10 <= weight <= 1000, "Range of blkio weight is from 10 to 1000")
    return warnings


def _memory(wishes: Resources) -> None:
    memory, swap, reservation = wishes.memory, wishes.memory_swap, wishes.memory_reservation
    swappiness = wishes.memory_swappiness
    _check(memory != 0 and memory < _MINIMUM, "Minimum memory limit allowed is 6MB")
    _check(
        memory == 0 and swap > 0,
        "You should always set the Memory limit when using Memoryswap limit, see usage",
    )
    _check(
        memory > 0 and 0 < swap < memory,
        "Minimum memoryswap limit should be larger than memory limit, see usage",
    )
    _check(
        swappiness is not None and not -1 <= swappiness <= 100,
        f"Invalid value: {swappiness}, valid memory swappiness range is 0-100",
    )
    _check(0 < reservation < _MINIMUM, "Minimum memory reservation allowed is 6MB")
    _check(
        0 < memory < reservation,
        "Minimum memory limit can not be less than memory reservation limit, see usage",
    )
    _check(0 < wishes.kernel_memory < _MINIMUM, "Minimum kernel memory limit allowed is 6MB")


def _cpu(wishes: Resources) -> None:
    nano, period, quota = wishes.nano_cpus, wishes.cpu_period, wishes.cpu_quota
    both = "Conflicting options: Nano CPUs and CPU {} cannot both be set"
    _check(nano > 0 and period > 0, both.format("Period"))
    _check(nano > 0 and quota > 0, both.format("Quota"))
    count = os.cpu_count() or 1
    _check(
        nano < 0 or nano > count * 1_000_000_000,
        f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available",
    )
    _check(
        period != 0 and not 1000 <= period <= 1_000_000,
        "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
    )
    _check(0 < quota < 1000, "CPU cfs quota can not be less than 1ms (i.e. 1000)")
    _check(wishes.cpu_percent > 0, "Windows only: CPU percent")
    for name, value in (("IOPs", wishes.io_maximum_iops), ("bandwidth", wishes.io_maximum_bandwidth)):
        _check(value > 0, f"Invalid QoS settings: linux does not support configuration of maximum {name}")
    for name, text, path in (("cpus", wishes.cpuset_cpus, "cpu"), ("mems", wishes.cpuset_mems, "node")):
        if text:
            _set(name, text, path)


def _set(name: str, text: str, kind: str) -> None:
    wanted = _numbers(text)
    _check(wanted is None, f"Invalid value {text} for cpuset {name}")
    try:
        with open(f"/sys/devices/system/{kind}/online") as file:
            available = file.read().strip()
    except OSError:
        available = "0"
    word = "CPUs" if name == "cpus" else "memory nodes"
    _check(
        not (wanted or set()) <= (_numbers(available) or set()),
        f"Requested {word} are not available - requested {text}, available: {available}",
    )


def _numbers(text: str) -> set[int] | None:
    """``0-2,7``; None for what isn't such a list."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        if match is None:
            return None
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            return None
        found.update(range(first, last + 1))
    return found


def _missing(*paths: str) -> bool:
    """Whether none of these files of a cgroup hierarchy is there."""
    return not any(os.path.exists(f"/sys/fs/cgroup/{path}") for path in paths)


def _discard(wishes: Resources) -> list[str]:
    """Take back, with a warning, what a v1 kernel without the controller can't do."""
    warnings = [DEPRECATED] if wishes.kernel_memory > 0 else []
    if unified_cgroups():
        return warnings
    for member, without, paths, what in _CONTROLLED:
        if not getattr(wishes, member) or getattr(wishes, member) == without or not _missing(*paths):
            continue
        warnings.append(
            f"Your kernel does not support {what} or the cgroup is not mounted. {_EFFECTS[member]}"
        )
        setattr(wishes, member, copy(without))
    return warnings


_NO_LIMIT: Final = (
    "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out"
    " of resources."
)
DEPRECATED: Final = "Specifying a kernel memory limit is deprecated and will be removed in a future release."

# Member of Resources, what it becomes, the file that it needs, what the warning calls it.
_CONTROLLED: Final[tuple[tuple[str, Any, tuple[str, ...], str], ...]] = (
    ("memory", 0, ("memory/memory.limit_in_bytes",), "memory limit capabilities"),
    ("memory_swap", -1, ("memory/memory.memsw.limit_in_bytes",), "swap limit capabilities"),
    ("pids_limit", None, ("pids",), "PIDs limit capabilities"),
    ("cpu_shares", 0, ("cpu/cpu.shares",), "CPU shares"),
    ("cpuset_cpus", "", ("cpuset",), "cpuset"),
    ("blkio_weight", 0, ("blkio/blkio.weight", "blkio/blkio.bfq.weight"), "Block I/O weight"),
    ("blkio_weight_device", [], ("blkio/blkio.weight_device",), "Block I/O weight_device"),
)
_EFFECTS: Final = {
    "memory": "Limitation discarded.",
    "memory_swap": "Memory limited without swap.",
    "pids_limit": "PIDs limit discarded.",
    "cpu_shares": "Shares discarded.",
    "cpuset_cpus": "Cpuset discarded.",
    "blkio_weight": "Weight discarded.",
    "blkio_weight_device": "Weight-device discarded.",
}


def _adapt(host: HostConfig, settings: Settings) -> None:
    """Fill in what inspect shows."""
    _check(host.shm_size < 0, "SHM size can not be less than 0")
    host.shm_size = host.shm_size or settings.shm_size
    host.ipc_mode = ipc_mode(host, settings)
    host.cgroupns_mode = cgroupns_mode(host, settings)
    host.restart_policy.name = host.restart_policy.name or "no"
    if host.oom_kill_disable is None and not unified_cgroups():
        host.oom_kill_disable = False
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    shares = host.privileged or host.pid_mode == "host" or host.ipc_mode == "host"
    if shares and not any(word.startswith("label") for word in host.security_opt or ()):
        host.security_opt = [*(host.security_opt or ()), "label=disable"]
    if not host.privileged:
        options = security.parse(host.security_opt or (), settings)
        masked, readonly = ((), ()) if options.unmasked else (security.MASKED_PATHS, READONLY_PATHS)
        host.masked_paths = list(masked) if host.masked_paths is None else host.masked_paths
        host.readonly_paths = list(readonly) if host.readonly_paths is None else host.readonly_paths
