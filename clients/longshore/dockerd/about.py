"""The documents in which the daemon describes itself and its host: /version and /info."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from longshore.api import errors
from longshore.dockerd import identity, routing
from longshore.dockerd.config import LOG_DRIVERS, Config
from longshore.dockerd.engine import Engine
from longshore.dockerd.version import COMMIT, VERSION

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
INDEX: Final = "https://index.docker.io/v1/"
NETWORK_DRIVERS: Final = ("bridge", "host", "macvlan", "null")


def architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


async def version(engine: Engine) -> dict[str, Any]:
    """GET /version. Parts that can't be asked are told as such."""
    below, commit = await _containerd(engine)
    common = {
        "ApiVersion": routing.text(routing.NEWEST),
        "MinAPIVersion": routing.text(routing.OLDEST),
        "GitCommit": COMMIT,
        "GoVersion": f"python{platform.python_version()}",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": platform.release(),
        "BuildTime": _build_time(),
    }
    return {
        "Platform": {"Name": "Longshore"},
        "Components": [
            {
                "Name": "Engine",
                "Version": VERSION,
                "Details": {**common, "Experimental": _word(engine.config.experimental)},
            },
            {"Name": "containerd", "Version": below, "Details": {"GitCommit": commit}},
            {"Name": "runc", "Version": VERSION, "Details": {"GitCommit": COMMIT}},
            {"Name": "docker-init", "Version": VERSION, "Details": {"GitCommit": COMMIT}},
        ],
        "Version": VERSION,
        **common,
    }


async def _containerd(engine: Engine) -> tuple[str, str]:
    try:
        async with asyncio.timeout(5):
            found = await engine.client.version()
    except (errors.Error, TimeoutError):
        return "N/A", "N/A"
    return found.version, found.revision


def _word(value: bool) -> str:
    return str(value).lower()


def _build_time() -> str:
    changed = os.stat(__file__).st_mtime
    return datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")


# -- info ---------------------------------------------------------------------------------------------------


async def info(engine: Engine) -> dict[str, Any]:
    """GET /info."""
    config = engine.config
    host = await asyncio.to_thread(_host, config)
    _, commit = await _containerd(engine)
    return {
        "ID": identity.of(config.data_root),
        **await _counts(engine),
        "Driver": config.storage_driver,
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": list(NETWORK_DRIVERS),
            "Authorization": None,
            "Log": list(LOG_DRIVERS),
        },
        **host,
        "Debug": config.debug,
        "NFd": len(os.listdir("/proc/self/fd")),
        "NGoroutines": len(asyncio.all_tasks()),
        "NEventsListener": engine.events.listeners,
        "SystemTime": _now(),
        "LoggingDriver": config.log_driver,
        "IndexServerAddress": INDEX,
        "RegistryConfig": registries(config),
        "GenericResources": None,
        "DockerRootDir": config.data_root,
        "HttpProxy": _masked("HTTP_PROXY"),
        "HttpsProxy": _masked("HTTPS_PROXY"),
        "NoProxy": os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")),
        "Name": socket.gethostname(),
        "Labels": config.labels,
        "ExperimentalBuild": config.experimental,
        "ServerVersion": VERSION,
        "Runtimes": _runtimes(config),
        "DefaultRuntime": config.default_runtime,
        "Swarm": SWARM,
        "LiveRestoreEnabled": config.live_restore,
        "Isolation": "",
        "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": commit, "Expected": commit},
        "RuncCommit": {"ID": COMMIT, "Expected": COMMIT},
        "InitCommit": {"ID": COMMIT, "Expected": COMMIT},
        "SecurityOptions": _security(config),
        "DefaultAddressPools": [
            {"Base": pool.base, "Size": pool.size} for pool in config.default_address_pools
        ],
        "Containerd": {
            "Address": config.containerd,
            "Namespaces": {
                "Containers": config.containerd_namespace,
                "Plugins": config.containerd_plugins_namespace,
            },
        },
        "CDISpecDirs": [],
        "Warnings": _warnings(config, host),
        "ProductLicense": "Apache-2.0",
    }


SWARM: Final = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


async def _counts(engine: Engine) -> dict[str, int]:
    states = [container.state.status for container in engine.containers.all()]
    paused = states.count("paused")
    running = states.count("running") + states.count("restarting")
    return {
        "Containers": len(states),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": len(states) - running - paused,
        "Images": await _images(engine),
    }


async def _images(engine: Engine) -> int:
    try:
        images = await engine.client.images.list()
    except errors.Error:
        return 0
    return len({image.target.digest for image in images})


def _now() -> str:
    now = time.time_ns()
    whole = datetime.fromtimestamp(now // 10**9, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{now % 10**9:09d}Z"


def registries(config: Config) -> dict[str, Any]:
    hub = {
        "Name": "docker.io",
        "Mirrors": [mirror.rstrip("/") + "/" for mirror in config.registry_mirrors],
        "Secure": True,
        "Official": True,
    }
    indexes: dict[str, Any] = {"docker.io": hub}
    ranges = ["::1/128", "127.0.0.0/8"]
    for name in config.insecure_registries:
        if "/" in name:
            ranges.append(name)
        else:
            indexes[name] = {"Name": name, "Mirrors": [], "Secure": False, "Official": False}
    return {
        "AllowNondistributableArtifactsCIDRs": None,
        "AllowNondistributableArtifactsHostnames": None,
        "InsecureRegistryCIDRs": ranges,
        "IndexConfigs": indexes,
        "Mirrors": hub["Mirrors"],
    }


def _runtimes(config: Config) -> dict[str, Any]:
    named: dict[str, Any] = {"io.containerd.runc.v2": {"path": "runc"}, "runc": {"path": "runc"}}
    for name, runtime in config.runtimes.items():
        named[name] = {"path": runtime.path} if runtime.path else {"runtimeType": runtime.runtime_type}
    return named


def _security(config: Config) -> list[str]:
    options = []
    if os.path.exists("/sys/kernel/security/apparmor"):
        options.append("name=apparmor")
    profile = config.seccomp_profile or "builtin"
    if _seccomp():
        options.append(f"name=seccomp,profile={profile}")
    if os.path.exists("/proc/self/ns/cgroup"):
        options.append("name=cgroupns")
    if config.no_new_privileges:
        options.append("name=no-new-privileges")
    return options


def _seccomp() -> bool:
    return "\nSeccomp:" in Path("/proc/self/status").read_text()


def _masked(name: str) -> str:
    """A proxy's URL without its password."""
    value = os.environ.get(name, os.environ.get(name.lower(), ""))
    head, at, host = value.rpartition("@")
    scheme, found, _ = head.partition("://")
    return f"{scheme}://xxxxx:xxxxx@{host}" if at and found else value


def _host(config: Config) -> dict[str, Any]:
    """What the kernel and the distribution say. Reads files: for a thread."""
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    abilities = _unified(config) if unified else _hierarchies()
    return {
        **abilities,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if unified else "1",
        "IPv4Forwarding": _read("/proc/sys/net/ipv4/ip_forward") != "0",
        "BridgeNfIptables": _read("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1",
        "BridgeNfIp6tables": _read("/proc/sys/net/bridge/bridge-nf-call-ip6tables") == "1",
        "KernelVersion": platform.release(),
        "OperatingSystem": _distribution(),
        "OSVersion": _os_release().get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": _memory(),
    }


def _hierarchies() -> dict[str, bool]:
    def there(controller: str, file: str) -> bool:
        return os.path.exists(f"/sys/fs/cgroup/{controller}/{file}")

    return {
        "MemoryLimit": there("memory", "memory.limit_in_bytes"),
        "SwapLimit": there("memory", "memory.memsw.limit_in_bytes"),
        "KernelMemoryTCP": there("memory", "memory.kmem.tcp.limit_in_bytes"),
        "CpuCfsPeriod": there("cpu", "cpu.cfs_period_us"),
        "CpuCfsQuota": there("cpu", "cpu.cfs_quota_us"),
        "CPUShares": there("cpu", "cpu.shares"),
        "CPUSet": there("cpuset", "cpuset.cpus"),
        "PidsLimit": os.path.isdir("/sys/fs/cgroup/pids"),
        "OomKillDisable": there("memory", "memory.oom_control"),
    }


def _unified(config: Config) -> dict[str, bool]:
    controllers = _read("/sys/fs/cgroup/cgroup.controllers").split()
    cpu, memory = "cpu" in controllers, "memory" in controllers
    return {
        "MemoryLimit": memory,
        "SwapLimit": memory,
        "CpuCfsPeriod": cpu,
        "CpuCfsQuota": cpu,
        "CPUShares": cpu,
        "CPUSet": "cpuset" in controllers,
        "PidsLimit": "pids" in controllers,
        "OomKillDisable": False,
    }


_WARNED: Final = (
    ("MemoryLimit", "No memory limit support"),
    ("SwapLimit", "No swap limit support"),
    ("CpuCfsQuota", "No cpu cfs quota support"),
    ("CpuCfsPeriod", "No cpu cfs period support"),
    ("CPUShares", "No cpu shares support"),
    ("CPUSet", "No cpuset support"),
    ("IPv4Forwarding", "IPv4 forwarding is disabled"),
)


def _warnings(config: Config, host: Mapping[str, Any]) -> list[str]:
    found = [f"WARNING: {text}" for key, text in _WARNED if not host.get(key, True)]
    if any(name.startswith("tcp://") for name in config.hosts) and not config.tlsverify:
        found.append(
            "[DEPRECATION NOTICE]: API is accessible on a TCP address without client certificates:"
            " whoever reaches it is root on this host. Use --tlsverify"
        )
    return found


def _memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _distribution() -> str:
    return _os_release().get("PRETTY_NAME", sys.platform)
