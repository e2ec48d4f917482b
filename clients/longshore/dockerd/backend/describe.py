"""A container as inspect shows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from longshore.dockerd.backend.live import ALIVE, Live
from longshore.dockerd.backend.times import rfc3339
from longshore.dockerd.records import Container, ContainerState, EndpointSettings, MountPoint, named_links

PREDEFINED: Final = ("bridge", "host", "none")
SHORT_ID_IS_NO_ALIAS: Final = (1, 45)
"""Since this version the short ID stands among DNSNames only."""
KERNEL_MEMORY_IS_GONE: Final = (1, 42)
"""Since this version it is shown only where it was asked for."""

# What Go leaves out when it is empty.
_OPTIONAL_CONFIG: Final = (
    "ExposedPorts ArgsEscaped NetworkDisabled MacAddress StopSignal StopTimeout Shell Healthcheck"
)
_OPTIONAL_HOST: Final = (
    "Annotations Mounts Tmpfs StorageOpt Sysctls Init KernelMemory KernelMemoryTCP Runtime"
)
_OPTIONAL_HEALTH: Final = "Test Interval Timeout StartPeriod StartInterval Retries"


def plain(document: Any) -> Any:
    return msgspec.to_builtins(document)


def trimmed(document: Mapping[str, Any], words: str) -> dict[str, Any]:
    optional = words.split()
    return {key: value for key, value in document.items() if value or key not in optional}


def inspect(live: Live, version: tuple[int, int], sandbox_key: str = "") -> dict[str, Any]:
    """`sandbox_key` is the path of its network namespace, "" without one."""
    record = live.record
    return {
        "Id": record.id,
        "Created": rfc3339(record.created_ns),
        "Path": record.path,
        "Args": record.args,
        "State": state(record.state),
        "Image": record.image_id,
        **_files(record),
        "LogPath": record.log_path,
        "Name": f"/{record.name}",
        "RestartCount": record.restart_count,
        "Driver": record.driver,
        "Platform": record.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": record.app_armor_profile,
        "ExecIDs": (list(live.execs) if live.has_process else None) or None,
        "HostConfig": host_config(record, version),
        "GraphDriver": {"Data": None, "Name": record.driver},
        "Mounts": [mount(point) for point in record.mounts],
        "Config": config(record),
        "NetworkSettings": network_settings(record, version, sandbox_key),
    }


def _files(record: Container) -> dict[str, str]:
    names = {"ResolvConfPath": "resolv.conf", "HostnamePath": "hostname", "HostsPath": "hosts"}
    started = record.has_been_started
    return {key: os.path.join(record.folder, name) if started else "" for key, name in names.items()}


def state(found: ContainerState) -> dict[str, Any]:
    document = {
        "Status": found.status,
        "Running": found.status in ALIVE,
        "Paused": found.status == "paused",
        "Restarting": found.status == "restarting",
        "OOMKilled": found.oom_killed,
        "Dead": found.status == "dead",
        "Pid": found.pid,
        "ExitCode": found.exit_code,
        "Error": found.error,
        "StartedAt": rfc3339(found.started_ns),
        "FinishedAt": rfc3339(found.finished_ns),
    }
    if found.health is not None:
        document["Health"] = plain(found.health)
    return document


def config(record: Container) -> dict[str, Any]:
    document = trimmed(plain(record.config), _OPTIONAL_CONFIG)
    if "Healthcheck" in document:
        document["Healthcheck"] = trimmed(document["Healthcheck"], _OPTIONAL_HEALTH)
    if record.config.stop_timeout is not None:  # 0 is a value
        document["StopTimeout"] = record.config.stop_timeout
    document["Labels"] = document["Labels"] or {}
    return document


def host_config(record: Container, version: tuple[int, int]) -> dict[str, Any]:
    document = plain(record.host_config)
    if document["Mounts"]:
        document["Mounts"] = [_mount_spec(spec) for spec in document["Mounts"]]
    document["ConsoleSize"] = document["ConsoleSize"] or [0, 0]
    document["LogConfig"]["Config"] = document["LogConfig"]["Config"] or {}
    document["PortBindings"] = document["PortBindings"] or {}
    document["Isolation"] = document["Isolation"] or ""
    if record.host_config.links:
        pairs = named_links(record.host_config.links)
        document["Links"] = [f"/{target}:/{record.name}/{alias}" for target, alias in pairs]
    shown = trimmed(document, _OPTIONAL_HOST)
    if record.host_config.init is not None:  # False is a value
        shown["Init"] = record.host_config.init
    if version < KERNEL_MEMORY_IS_GONE:
        shown |= {key: document[key] for key in ("KernelMemory", "KernelMemoryTCP")}
    return shown


def _mount_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in spec.items() if value or key == "Type"}
    for key in ("BindOptions", "VolumeOptions", "TmpfsOptions"):
        if key in kept:
            kept[key] = {name: value for name, value in kept[key].items() if value}
    return kept


def mount(point: MountPoint) -> dict[str, Any]:
    """As inspect and list have it; a member is left out where the original leaves it out."""
    document: dict[str, Any] = {"Type": point.type}
    if point.name:
        document["Name"] = point.name
    document |= {"Source": point.source, "Destination": point.target}
    if point.driver:
        document["Driver"] = point.driver
    return document | {"Mode": point.mode, "RW": point.writable, "Propagation": point.propagation}


def endpoint(record: Container, name: str, version: tuple[int, int]) -> dict[str, Any]:
    """One network of a container."""
    document: dict[str, Any] = plain(record.networks[name])
    if document["IPAMConfig"]:
        document["IPAMConfig"] = {key: value for key, value in document["IPAMConfig"].items() if value}
    if version < SHORT_ID_IS_NO_ALIAS and name not in PREDEFINED:
        document["Aliases"] = [*(document["Aliases"] or ()), record.id[:12]]
    for key, since in (("DNSNames", (1, 44)), ("GwPriority", (1, 48))):
        if version < since:
            document.pop(key)
    return document


def endpoints(record: Container, version: tuple[int, int]) -> dict[str, Any]:
    return {name: endpoint(record, name, version) for name in record.networks}


def network_settings(record: Container, version: tuple[int, int], sandbox_key: str) -> dict[str, Any]:
    first = record.networks.get("bridge") or EndpointSettings()
    return {
        "Bridge": "",
        "SandboxID": record.id if sandbox_key else "",
        "SandboxKey": sandbox_key,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": plain(record.ports) or {},
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": first.endpoint_id,
        "Gateway": first.gateway,
        "GlobalIPv6Address": first.global_ipv6_address,
        "GlobalIPv6PrefixLen": first.global_ipv6_prefix_len,
        "IPAddress": first.ip_address,
        "IPPrefixLen": first.ip_prefix_len,
        "IPv6Gateway": first.ipv6_gateway,
        "MacAddress": first.mac_address if first.endpoint_id else "",
        "Networks": endpoints(record, version),
    }
