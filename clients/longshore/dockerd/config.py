"""dockerd's settings: flags and daemon.json, under the original's names.

One table says, per setting, its flag, its key in the file, how it is written,
and whether SIGHUP may change it. A setting given in both places is refused,
as the original refuses it; so is a key that nobody knows.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import field

from longshore.api.errors import InvalidArgument

DEFAULT_FILE: Final = "/etc/docker/daemon.json"
DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
LOG_DRIVERS: Final = ("json-file", "local", "none")
DEFAULT_CONTAINERD: Final = "/run/containerd/containerd.sock"


class Runtime(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An OCI runtime by executable (`path`, a name on PATH too), or a shim by its `runtime_type`."""

    path: str = ""
    runtime_args: list[str] | None = field(default=None, name="runtimeArgs")
    runtime_type: str = field(default="", name="runtimeType")
    options: dict[str, Any] | None = None


class AddressPool(msgspec.Struct, kw_only=True):
    base: str
    size: int


class DefaultUlimit(msgspec.Struct, kw_only=True, rename="pascal"):
    name: str = ""
    hard: int = 0
    soft: int = 0


class Config(msgspec.Struct, kw_only=True):
    """Everything as one value. Reloading changes its members in place, so that every part sees it."""

    config_file: str = DEFAULT_FILE
    data_root: str = "/var/lib/docker"
    exec_root: str = "/var/run/docker"
    pidfile: str = "/var/run/docker.pid"
    hosts: list[str] = field(default_factory=list)
    group: str = "docker"
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""

    containerd: str = ""
    """Path of the socket; while it is "" at start-up, main finds or starts one."""
    containerd_namespace: str = "moby"
    containerd_plugins_namespace: str = "plugins.moby"
    storage_driver: str = "overlayfs"
    """containerd's snapshotter."""
    storage_opts: list[str] = field(default_factory=list)

    debug: bool = False
    log_level: str = "info"
    log_format: str = "text"
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    features: dict[str, bool] = field(default_factory=dict)
    experimental: bool = False

    registry_mirrors: list[str] = field(default_factory=list)
    insecure_registries: list[str] = field(default_factory=list)
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5

    bridge: str = ""
    """Name of a bridge that somebody else made; "none" is no default network."""
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    ipv6: bool = False
    mtu: int = 1500
    icc: bool = True
    ip: str = "0.0.0.0"
    """Where published ports listen unless told otherwise."""
    iptables: bool = True
    ip6tables: bool = True
    ip_forward: bool = True
    ip_masq: bool = True
    userland_proxy: bool = True
    userland_proxy_path: str = ""
    default_address_pools: list[AddressPool] = field(default_factory=list)
    host_gateway_ip: str = ""
    dns: list[str] = field(default_factory=list)
    dns_opts: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)

    default_runtime: str = "runc"
    runtimes: dict[str, Runtime] = field(default_factory=dict)
    cgroup_parent: str = ""
    exec_opts: list[str] = field(default_factory=list)
    init: bool = False
    init_path: str = ""
    default_ulimits: dict[str, DefaultUlimit] = field(default_factory=dict)
    default_shm_size: int = 64 << 20
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    """Path of a profile; "unconfined" is none; "" or "builtin" the built-in one."""
    selinux_enabled: bool = False
    oom_score_adjust: int = 0
    live_restore: bool = True
    """Containers survive dockerd's stop, too; they always survive its death. Unlike the original's, on."""
    shutdown_timeout: int = 15
    """Seconds for containers to stop when dockerd is told to; -1 is no limit."""


# -- values as flags have them ------------------------------------------------------------------------------


def boolean(text: str) -> bool:
    """As Go's flags read it."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise argparse.ArgumentTypeError(f"invalid boolean value {text!r}")


_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?\Z", re.IGNORECASE)


def size(text: str) -> int:
    """Bytes of "64m", "1.5GiB", "1024"; ValueError."""
    found = _SIZE.match(text.strip())
    if found is None:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " "))


def _pair(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    return key, value


def _feature(text: str) -> tuple[str, bool]:
    key, _, value = text.partition("=")
    return key, boolean(value or "true")


def _runtime(text: str) -> tuple[str, Runtime]:
    name, path = _pair(text)
    return name, Runtime(path=path)


def _ulimit(text: str) -> tuple[str, DefaultUlimit]:
    name, value = _pair(text)
    soft, _, hard = value.partition(":")
    try:
        return name, DefaultUlimit(name=name, soft=int(soft), hard=int(hard or soft))
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid ulimit argument: {text}") from None


def _pool(text: str) -> AddressPool:
    members = dict(_pair(part) for part in text.split(","))
    try:
        return AddressPool(base=members["base"], size=int(members["size"]))
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form base=CIDR,size=PREFIX") from None


# -- the table ----------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """`many` settings are given once per value: as a list, or as a map by pairs."""

    name: str
    key: str
    flags: tuple[str, ...]
    parse: Callable[[str], Any]
    many: str = ""  # "", "list" or "map"
    reload: bool = False
    help: str = ""


def _one(flag: str, parse: Callable[[str], Any] = str, help: str = "", **more: Any) -> Setting:
    return Setting(flag.replace("-", "_"), flag, (f"--{flag}",), parse, help=help, **more)


def _list(flag: str, key: str, help: str = "", parse: Callable[[str], Any] = str, **more: Any) -> Setting:
    return Setting(key.replace("-", "_"), key, (f"--{flag}",), parse, "list", help=help, **more)


def _map(flag: str, key: str, parse: Callable[[str], Any], help: str = "", **more: Any) -> Setting:
    return Setting(key.replace("-", "_"), key, (f"--{flag}",), parse, "map", help=help, **more)


SETTINGS: Final = (
    Setting("hosts", "hosts", ("--host", "-H"), str, "list", help="socket(s) to listen on"),
    Setting("data_root", "data-root", ("--data-root", "-g"), str, help="directory for what persists"),
    Setting("exec_root", "exec-root", ("--exec-root",), str, help="directory for what a reboot may take"),
    Setting("pidfile", "pidfile", ("--pidfile", "-p"), str, help="where to write our pid"),
    Setting("group", "group", ("--group", "-G"), str, help="group of the unix socket"),
    Setting("debug", "debug", ("--debug", "-D"), boolean, reload=True, help="log more"),
    Setting("log_level", "log-level", ("--log-level", "-l"), str, help="debug, info, warn, error or fatal"),
    _one("log-format", help="text or json"),
    _one("tls", boolean, "use TLS; implied by --tlsverify"),
    _one("tlsverify", boolean, "use TLS and verify the client"),
    _one("tlscacert", help="trust certificates signed by this CA only"),
    _one("tlscert", help="our certificate"),
    _one("tlskey", help="our key"),
    _one("containerd", help="containerd's socket"),
    _one("containerd-namespace", help="containerd's namespace of our containers"),
    _one("containerd-plugins-namespace", help="containerd's namespace of plugins"),
    Setting(
        "storage_driver", "storage-driver", ("--storage-driver", "-s"), str, help="containerd's snapshotter"
    ),
    _list("storage-opt", "storage-opts", "options of the storage driver"),
    _one("log-driver", help="of containers that don't name one"),
    _map("log-opt", "log-opts", _pair, "options of the log driver", reload=True),
    _list("label", "labels", "key=value labels of the daemon", reload=True),
    _map("feature", "features", _feature, "switch a feature on or off", reload=True),
    _one("experimental", boolean, "experimental features", reload=True),
    _list("registry-mirror", "registry-mirrors", "mirrors of Docker Hub", reload=True),
    _list("insecure-registry", "insecure-registries", "registries without (valid) TLS", reload=True),
    _one("max-concurrent-downloads", int, "layers per pull", reload=True),
    _one("max-concurrent-uploads", int, "layers per push", reload=True),
    _one("max-download-attempts", int, "per layer", reload=True),
    Setting("bridge", "bridge", ("--bridge", "-b"), str, help="attach containers to this bridge"),
    _one("bip", help="address of the default bridge, as CIDR"),
    _one("bip6", help="IPv6 address of the default bridge, as CIDR"),
    _one("fixed-cidr", help="range for fixed IPs"),
    _one("fixed-cidr-v6", help="range for fixed IPv6 addresses"),
    _one("default-gateway", help="of containers on the default bridge"),
    _one("default-gateway-v6", help="of containers on the default bridge"),
    _one("ipv6", boolean, "IPv6 on the default bridge"),
    _one("mtu", int, "of container networks"),
    _one("icc", boolean, "containers of the default bridge may talk to each other"),
    _one("ip", help="host address of published ports"),
    _one("iptables", boolean, "add iptables rules"),
    _one("ip6tables", boolean, "add ip6tables rules"),
    _one("ip-forward", boolean, "switch forwarding on"),
    _one("ip-masq", boolean, "masquerade what leaves the bridge"),
    _one("userland-proxy", boolean, "a proxy process per published port"),
    _one("userland-proxy-path", help="executable of the proxy"),
    _list("default-address-pool", "default-address-pools", "base=CIDR,size=PREFIX", _pool),
    _one("host-gateway-ip", help="what host-gateway stands for"),
    _list("dns", "dns", "name servers"),
    _list("dns-opt", "dns-opts", "options of resolv.conf"),
    _list("dns-search", "dns-search", "search domains"),
    _one("default-runtime", help="of containers that don't name one", reload=True),
    _map("add-runtime", "runtimes", _runtime, "name=path of an OCI runtime", reload=True),
    _one("cgroup-parent", help="of all containers"),
    _list("exec-opt", "exec-opts", "native.cgroupdriver=cgroupfs|systemd"),
    _one("init", boolean, "an init in every container"),
    _one("init-path", help="executable of that init"),
    _map("default-ulimit", "default-ulimits", _ulimit, "name=soft[:hard]"),
    _one("default-shm-size", size, "of /dev/shm", reload=True),
    _one("default-ipc-mode", help="private or shareable"),
    _one("default-cgroupns-mode", help="private or host"),
    _one("no-new-privileges", boolean, "for all containers"),
    _one("seccomp-profile", help="path of a seccomp profile"),
    _one("selinux-enabled", boolean, "SELinux support"),
    _one("oom-score-adjust", int, "of the daemon"),
    _one("live-restore", boolean, "containers survive the daemon's stop", reload=True),
    _one("shutdown-timeout", int, "seconds for containers to stop", reload=True),
)

_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}

# What the original's file may hold and has no meaning here: accepted and said so, never silently obeyed.
IGNORED: Final = frozenset(
    {
        "allow-nondistributable-artifacts",
        "api-cors-header",
        "builder",
        "cpu-rt-period",
        "cpu-rt-runtime",
        "cri-containerd",
        "default-network-opts",
        "deprecated-key-path",
        "dynamic-config",
        "http-proxy",
        "https-proxy",
        "max-cri-downloads",
        "metrics-addr",
        "network-control-plane-mtu",
        "network-diagnostic-port",
        "no-proxy",
        "node-generic-resources",
        "proxies",
        "raw-logs",
        "swarm-default-advertise-addr",
    }
)
# These change what containers may do: ignoring them would be a lie.
REFUSED: Final = frozenset({"authorization-plugins", "userns-remap"})


def parser() -> argparse.ArgumentParser:
    """Of dockerd's command line; every setting's default is None = not given."""
    made = argparse.ArgumentParser(
        prog="dockerd", description="A daemon for containers, compatible with Docker's.", allow_abbrev=False
    )
    made.add_argument("--config-file", metavar="FILE", help=f"default {DEFAULT_FILE}")
    made.add_argument("--validate", action="store_true", help="check the configuration and exit")
    made.add_argument("--version", "-v", action="store_true", help="print the version")
    for setting in SETTINGS:
        options: dict[str, Any] = {"dest": setting.name, "help": setting.help, "type": setting.parse}
        if setting.parse is boolean:
            options |= {"nargs": "?", "const": True, "metavar": "BOOL"}
        else:
            options["metavar"] = "VALUE"
        if setting.many:
            options["action"] = "append"
        made.add_argument(*setting.flags, **options)
    return made


def load(arguments: argparse.Namespace) -> Config:
    """Flags and file together. InvalidArgument; OSError for a file that was named and can't be read."""
    flags = _given(arguments)
    path = arguments.config_file or DEFAULT_FILE
    values = {**_from_file(path, flags, must_exist=arguments.config_file is not None), **flags}
    config = Config(config_file=path, **values)
    _check(config)
    return config


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    values = {}
    for setting in SETTINGS:
        value = getattr(arguments, setting.name)
        if value is not None:
            values[setting.name] = dict(value) if setting.many == "map" else value
    return values


def _from_file(path: str, flags: Mapping[str, Any], *, must_exist: bool) -> dict[str, Any]:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        if must_exist:
            raise
        return {}
    try:
        return from_document(data, flags)
    except (InvalidArgument, msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"unable to configure the Docker daemon with file {path}: {error}") from None


def from_document(data: bytes, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a daemon.json by member name. InvalidArgument; msgspec's errors for wrong types."""
    document = msgspec.json.decode(data or b"{}", type=dict[str, Any])
    if unknown := sorted(set(document) - set(_BY_KEY) - IGNORED - REFUSED):
        raise InvalidArgument(
            f"the following directives don't match any configuration option: {', '.join(unknown)}"
        )
    if refused := sorted(key for key in REFUSED & set(document) if document[key]):
        raise InvalidArgument(f"{', '.join(refused)}: not supported by this daemon")
    found = {_BY_KEY[key].name: value for key, value in document.items() if key in _BY_KEY}
    _refuse_conflicts(found, flags)
    if isinstance(shm := found.get("default_shm_size"), str):
        found["default_shm_size"] = size(shm)
    decoded = msgspec.convert(found, Config)
    return {name: getattr(decoded, name) for name in found}


def _refuse_conflicts(found: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    conflicts = [
        f"{setting.key}: (from flag: {_shown(flags[setting.name])}, from file: {_shown(found[setting.name])})"
        for setting in SETTINGS
        if setting.name in found and setting.name in flags
    ]
    if conflicts:
        raise InvalidArgument(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(conflicts)
        )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{' '.join(map(str, value))}]"
    return str(value)


def reload(config: Config, flags: Mapping[str, Any], must_exist: bool) -> dict[str, Any]:
    """Read the file again and change what may change while we run; the new values by key. Errors as `load`."""
    fresh = Config(**{**_from_file(config.config_file, flags, must_exist=must_exist), **flags})
    _check(fresh)
    for setting in SETTINGS:
        if setting.reload:
            setattr(config, setting.name, getattr(fresh, setting.name))
    return {setting.key: getattr(config, setting.name) for setting in SETTINGS if setting.reload}


def flags_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given on the command line, for `reload`."""
    return _given(arguments)


def _check(config: Config) -> None:
    for label in config.labels:
        if "=" not in label:
            raise InvalidArgument(f"bad attribute format: {label}")
    seen: dict[str, str] = {}
    for label in config.labels:
        key, _, value = label.partition("=")
        if seen.setdefault(key, value) != value:
            raise InvalidArgument(f"conflict labels for {label} and {key}={seen[key]}")
    for name in ("max_concurrent_downloads", "max_concurrent_uploads", "max_download_attempts"):
        if getattr(config, name) < 0:
            raise InvalidArgument(f"invalid {name.replace('_', ' ')}: {getattr(config, name)}")
    _check_modes(config)
    _check_addresses(config)
    _check_support(config)
    if "runc" in config.runtimes:
        raise InvalidArgument("runtime name 'runc' is reserved")
    if config.bridge and config.bridge != "none" and config.bip:
        raise InvalidArgument("You specified -b & --bip, mutually exclusive options. Please specify only one")


def _check_addresses(config: Config) -> None:
    """A word that is none is told of before anything is made with it, in the original's words."""
    for text in config.dns:
        if not _is(ip_address, text):
            raise InvalidArgument(f"{text} is not an ip address")
    for text in (config.ip, config.default_gateway, config.default_gateway_v6):
        if text and not _is(ip_address, text):
            raise InvalidArgument(f"invalid IP address: {text}")
    for text in (config.bip, config.bip6, config.fixed_cidr, config.fixed_cidr_v6):
        if text and not ("/" in text and _is(ip_interface, text)):
            raise InvalidArgument(f"invalid CIDR address: {text}")
    for text in config.registry_mirrors:
        scheme = urlsplit(text).scheme
        if scheme not in ("http", "https"):
            raise InvalidArgument(f'invalid mirror: unsupported scheme "{scheme}" in "{text}"')


def _is(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _check_support(config: Config) -> None:
    """Refuse what we don't have and what would change how containers are kept in: ignoring it would be a lie."""
    if config.storage_driver in _DRIVERS:
        config.storage_driver = "overlayfs"
    else:
        raise InvalidArgument(f"driver not supported: {config.storage_driver}: images are kept by overlayfs")
    if unknown := [option for option in config.storage_opts if not option.startswith(_NO_OPTION)]:
        raise InvalidArgument(f"storage options are not supported: {', '.join(unknown)}")
    if unknown := [option for option in config.exec_opts if option != "native.cgroupdriver=cgroupfs"]:
        raise InvalidArgument(
            f"exec options are not supported: {', '.join(unknown)}: cgroups are made by cgroupfs"
        )
    if config.selinux_enabled:
        raise InvalidArgument("selinux-enabled: not supported by this daemon")
    if config.log_driver not in LOG_DRIVERS:
        raise InvalidArgument(f"logger: no log driver named '{config.log_driver}' is registered")
    runtime = config.default_runtime
    if runtime not in ("runc", *config.runtimes) and not runtime.startswith(("io.containerd.", "/")):
        raise InvalidArgument(f"specified default runtime '{runtime}' does not exist")


_DRIVERS: Final = ("overlayfs", "overlay2")
_NO_OPTION: Final = "overlay2.override_kernel_check="


def _check_modes(config: Config) -> None:
    modes: Sequence[tuple[str, str, tuple[str, ...]]] = (
        ("default-ipc-mode", config.default_ipc_mode, ("private", "shareable")),
        ("default-cgroupns-mode", config.default_cgroupns_mode, ("", "private", "host")),
        ("log-format", config.log_format, ("text", "json")),
        ("log-level", config.log_level, ("debug", "info", "warn", "error", "fatal", "panic", "trace")),
    )
    for name, value, allowed in modes:
        if value not in allowed:
            raise InvalidArgument(
                f"{name}: invalid value {value!r} (one of {', '.join(filter(None, allowed))})"
            )


def paths_are_absolute(config: Config) -> None:
    """Make them so, once, before anybody changes directory."""
    for name in ("data_root", "exec_root", "pidfile", "containerd"):
        if value := getattr(config, name):
            setattr(config, name, str(Path(value).absolute()))
