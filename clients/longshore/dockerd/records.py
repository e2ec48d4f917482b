"""The Engine API's documents about containers, and our record of one.

Names on the wire are the API's; an absent member and null are both the
default. Documents are decoded leniently (unknown members are ignored, as the
original does) and kept whole, so that inspect returns what create was given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import field


class Document(msgspec.Struct, rename="pascal", kw_only=True):
    """Base: members in PascalCase unless named otherwise."""


class HealthConfig(Document):
    """Times are nanoseconds; 0 inherits."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Document):
    """What runs, independent of the host; an image's `config` has the same members."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | str | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class PortBinding(Document):
    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Document):
    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Document):
    type: str = ""
    config: dict[str, str] | None = None


class DeviceMapping(Document):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Document):
    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = field(default=None, name="DeviceIDs")
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class Ulimit(Document):
    name: str = ""
    hard: int = 0
    soft: int = 0


class ThrottleDevice(Document):
    path: str = ""
    rate: int = 0


class WeightDevice(Document):
    path: str = ""
    weight: int = 0


class BindOptions(Document):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriverConfig(Document):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Document):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: VolumeDriverConfig | None = None
    subpath: str = ""


class TmpfsOptions(Document):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class MountSpec(Document):
    """`--mount`: type is bind, volume, tmpfs (or npipe, image, cluster: refused)."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Resources(Document):
    """Bytes, microseconds, nano CPUs; the part of HostConfig that update can change."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = field(default=0, name="NanoCpus")
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] | None = field(default=None, name="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = field(default=0, name="KernelMemoryTCP")
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = field(default=0, name="IOMaximumBandwidth")


class HostConfig(Resources):
    """Where and under which rules it runs on this host."""

    binds: list[str] | None = None
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: list[int] | None = None
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    mounts: list[MountSpec] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class IPAMEndpoint(Document):
    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")
    link_local_ips: list[str] | None = field(default=None, name="LinkLocalIPs")


class EndpointSettings(Document):
    """One network of a container: what was asked for, and, while it is joined, what it got."""

    ipam_config: IPAMEndpoint | None = field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    network_id: str = field(default="", name="NetworkID")
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = field(default="", name="IPAddress")
    ip_prefix_len: int = field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = field(default="", name="IPv6Gateway")
    global_ipv6_address: str = field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: int = field(default=0, name="GlobalIPv6PrefixLen")
    driver_opts: dict[str, str] | None = None
    dns_names: list[str] | None = field(default=None, name="DNSNames")
    gw_priority: int = 0


class NetworkingConfig(Document):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class CreateBody(ContainerConfig):
    """POST /containers/create: the config's members, and beside them these two."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class HealthResult(Document):
    start: str = ""
    end: str = ""
    exit_code: int = 0
    output: str = ""


class Health(Document):
    status: str = "starting"
    failing_streak: int = 0
    log: list[HealthResult] = field(default_factory=list)


class ContainerState(msgspec.Struct, kw_only=True):
    """Where a container stands. Times are Unix nanoseconds, 0 = never."""

    status: str = "created"
    """created, running, paused, restarting, removing, exited or dead."""
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    health: Health | None = None
    manually_stopped: bool = False
    """Stopped by a request: no restart policy brings it back until it is started again."""
    removing: bool = False


class MountPoint(msgspec.Struct, kw_only=True):
    """A mount as resolved at create: `source` is a path on the host ("" for a tmpfs)."""

    type: str
    target: str
    source: str = ""
    name: str = ""
    driver: str = ""
    writable: bool = True
    mode: str = ""
    propagation: str = ""
    copy_up: bool = False
    """Filled from the image at first start, if it is empty."""
    anonymous: bool = False
    spec: MountSpec | None = None


class Container(msgspec.Struct, kw_only=True):
    """Our record of a container; kind "containers" in `State`, key = id. Memory changes after the commit."""

    id: str
    name: str
    """Without the leading slash."""
    created_ns: int
    config: ContainerConfig
    host_config: HostConfig
    image_id: str
    image_ref: str
    path: str = ""
    args: list[str] = field(default_factory=list)
    driver: str = "overlayfs"
    platform: str = "linux"
    networks: dict[str, EndpointSettings] = field(default_factory=dict)
    """By network name."""
    ports: dict[str, list[PortBinding] | None] = field(default_factory=dict)
    """What is published while it runs: NetworkSettings.Ports."""
    mounts: list[MountPoint] = field(default_factory=list)
    state: ContainerState = field(default_factory=ContainerState)
    restart_count: int = 0
    folder: str = ""
    """<data-root>/containers/<id>: log, hosts, hostname, resolv.conf, FIFOs' link."""
    log_path: str = ""
    has_been_started: bool = False
    app_armor_profile: str = ""


def named_links(specs: Iterable[str]) -> list[tuple[str, str]]:
    """(container, alias) of each "container:alias" of `HostConfig.links`; without an alias the name is it."""
    found = []
    for spec in specs:
        target, _, alias = spec.removeprefix("/").partition(":")
        found.append((target, alias.rpartition("/")[2] or target))
    return found
