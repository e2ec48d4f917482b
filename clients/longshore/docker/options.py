"""The flags of ``docker run`` and ``create``, and the document that they make.

Most flags are one member of the document: those are rows of a table. The
others have a function each.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from longshore.docker.api import Failure

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([bkmgtp])?i?b?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


class Flag(NamedTuple):
    names: tuple[str, ...]
    path: str
    """Member of the document, dotted."""
    convert: Callable[[Any], Any] = str
    many: bool = False
    switch: bool = False


def size(text: str) -> int:
    """ "64m": bytes, -1 for no limit. Raises Failure."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Failure(f"invalid size: '{text}'", 125)
    return int(float(match[1]) * 1024 ** "bkmgtp".index((match[2] or "b").lower()))


def nanoseconds(text: str) -> int:
    """ "1m30s". Raises Failure."""
    parts = _DURATION.findall(text)
    if not parts or "".join("".join(part) for part in parts) != text:
        raise Failure(f'invalid argument "{text}": time: invalid duration "{text}"', 125)
    return round(sum(float(number) * _SECONDS[unit] for number, unit in parts) * 1e9)


def _nano_cpus(text: str) -> int:
    return round(float(text) * 1e9)


def _restart(text: str) -> dict[str, Any]:
    name, colon, count = text.partition(":")
    if colon and not re.fullmatch(r"\d+", count):
        raise Failure("invalid restart policy format: maximum retry count must be an integer", 125)
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _ulimit(text: str) -> dict[str, Any]:
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard if colon else soft)}
    except ValueError:
        raise Failure(f"invalid ulimit argument: {text}", 125) from None


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    rights = "rwm"
    inside = parts[0]
    if len(parts) == 2 and set(parts[1]) <= set("rwm"):
        rights = parts[1]
    elif len(parts) > 1:
        inside = parts[1]
        rights = parts[2] if len(parts) > 2 else rights
    return {"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": rights}


def _security(text: str) -> str:
    name, separator, value = text.partition("=") if "=" in text else text.partition(":")
    if name == "seccomp" and value not in ("unconfined", "builtin"):
        try:
            return f"seccomp={json.dumps(json.loads(Path(value).read_text()), separators=(',', ':'))}"
        except (OSError, ValueError) as error:
            raise Failure(f"opening seccomp profile ({value}) failed: {error}", 125) from None
    if not separator and text != "no-new-privileges":
        raise Failure(f"invalid --security-opt: {json.dumps(text)}", 125)
    return text


def _rate(text: str) -> dict[str, Any]:
    path, _, rate = text.rpartition(":")
    return {"Path": path, "Rate": size(rate)}


def _weight(text: str) -> dict[str, Any]:
    path, _, weight = text.rpartition(":")
    return {"Path": path, "Weight": int(weight)}


def _host(text: str) -> str:
    # "name=address" is the newer way of writing it.
    name, separator, address = text.partition(":") if ":" in text.partition("=")[0] else text.partition("=")
    if not separator or not address:
        raise Failure(f'bad format for add-host: "{text}"', 125)
    return f"{name}:{address.strip('[]')}"


FLAGS = (
    Flag(("--hostname", "-h"), "Hostname"),
    Flag(("--domainname",), "Domainname"),
    Flag(("--user", "-u"), "User"),
    Flag(("--workdir", "-w"), "WorkingDir"),
    Flag(("--stop-signal",), "StopSignal"),
    Flag(("--stop-timeout",), "StopTimeout", int),
    Flag(("--tty", "-t"), "Tty", switch=True),
    Flag(("--interactive", "-i"), "OpenStdin", switch=True),
    Flag(("--privileged",), "HostConfig.Privileged", switch=True),
    Flag(("--read-only",), "HostConfig.ReadonlyRootfs", switch=True),
    Flag(("--publish-all", "-P"), "HostConfig.PublishAllPorts", switch=True),
    Flag(("--rm",), "HostConfig.AutoRemove", switch=True),
    Flag(("--oom-kill-disable",), "HostConfig.OomKillDisable", switch=True),
    Flag(("--oom-score-adj",), "HostConfig.OomScoreAdj", int),
    Flag(("--pid",), "HostConfig.PidMode"),
    Flag(("--ipc",), "HostConfig.IpcMode"),
    Flag(("--uts",), "HostConfig.UTSMode"),
    Flag(("--userns",), "HostConfig.UsernsMode"),
    Flag(("--cgroupns",), "HostConfig.CgroupnsMode"),
    Flag(("--cgroup-parent",), "HostConfig.CgroupParent"),
    Flag(("--runtime",), "HostConfig.Runtime"),
    Flag(("--isolation",), "HostConfig.Isolation"),
    Flag(("--volume-driver",), "HostConfig.VolumeDriver"),
    Flag(("--restart",), "HostConfig.RestartPolicy", _restart),
    Flag(("--shm-size",), "HostConfig.ShmSize", size),
    Flag(("--memory", "-m"), "HostConfig.Memory", size),
    Flag(("--memory-swap",), "HostConfig.MemorySwap", size),
    Flag(("--memory-reservation",), "HostConfig.MemoryReservation", size),
    Flag(("--memory-swappiness",), "HostConfig.MemorySwappiness", int),
    Flag(("--kernel-memory",), "HostConfig.KernelMemory", size),
    Flag(("--cpus",), "HostConfig.NanoCpus", _nano_cpus),
    Flag(("--cpu-shares", "-c"), "HostConfig.CpuShares", int),
    Flag(("--cpu-period",), "HostConfig.CpuPeriod", int),
    Flag(("--cpu-quota",), "HostConfig.CpuQuota", int),
    Flag(("--cpu-rt-period",), "HostConfig.CpuRealtimePeriod", int),
    Flag(("--cpu-rt-runtime",), "HostConfig.CpuRealtimeRuntime", int),
    Flag(("--cpuset-cpus",), "HostConfig.CpusetCpus"),
    Flag(("--cpuset-mems",), "HostConfig.CpusetMems"),
    Flag(("--pids-limit",), "HostConfig.PidsLimit", int),
    Flag(("--blkio-weight",), "HostConfig.BlkioWeight", int),
    Flag(("--blkio-weight-device",), "HostConfig.BlkioWeightDevice", _weight, many=True),
    Flag(("--device-read-bps",), "HostConfig.BlkioDeviceReadBps", _rate, many=True),
    Flag(("--device-write-bps",), "HostConfig.BlkioDeviceWriteBps", _rate, many=True),
    Flag(("--device-read-iops",), "HostConfig.BlkioDeviceReadIOps", _rate, many=True),
    Flag(("--device-write-iops",), "HostConfig.BlkioDeviceWriteIOps", _rate, many=True),
    Flag(("--device",), "HostConfig.Devices", _device, many=True),
    Flag(("--device-cgroup-rule",), "HostConfig.DeviceCgroupRules", many=True),
    Flag(("--ulimit",), "HostConfig.Ulimits", _ulimit, many=True),
    Flag(("--cap-add",), "HostConfig.CapAdd", many=True),
    Flag(("--cap-drop",), "HostConfig.CapDrop", many=True),
    Flag(("--group-add",), "HostConfig.GroupAdd", many=True),
    Flag(("--security-opt",), "HostConfig.SecurityOpt", _security, many=True),
    Flag(("--dns",), "HostConfig.Dns", many=True),
    Flag(("--dns-search",), "HostConfig.DnsSearch", many=True),
    Flag(("--dns-option", "--dns-opt"), "HostConfig.DnsOptions", many=True),
    Flag(("--add-host",), "HostConfig.ExtraHosts", _host, many=True),
    Flag(("--link",), "HostConfig.Links", many=True),
    Flag(("--volumes-from",), "HostConfig.VolumesFrom", many=True),
)

# Those that need more than a conversion; `make` reads them.
OTHERS = (
    *(click.Option([name], multiple=True) for name in ("--env-file", "--label-file", "--expose", "--mount")),
    click.Option(["--env", "-e"], multiple=True),
    click.Option(["--label", "-l"], multiple=True),
    click.Option(["--publish", "-p"], multiple=True),
    click.Option(["--volume", "-v"], multiple=True),
    *(click.Option([name], multiple=True) for name in ("--tmpfs", "--sysctl", "--storage-opt", "--log-opt")),
    *(click.Option([name], multiple=True) for name in ("--annotation", "--network-alias", "--link-local-ip")),
    click.Option(["--network", "--net"], multiple=True),
    click.Option(["--attach", "-a"], multiple=True),
    *(click.Option([name]) for name in ("--entrypoint", "--log-driver", "--name", "--cidfile", "--platform")),
    *(click.Option([name]) for name in ("--ip", "--ip6", "--mac-address")),
    *(click.Option([name]) for name in ("--health-cmd", "--health-interval", "--health-timeout")),
    *(click.Option([name]) for name in ("--health-start-period", "--health-start-interval")),
    click.Option(["--health-retries"], type=int),
    click.Option(["--no-healthcheck"], is_flag=True),
    click.Option(["--init/--no-init"], default=None),
    click.Option(["--pull"], default="missing"),
    click.Option(["--quiet", "-q"], is_flag=True),
    click.Option(["--disable-content-trust"], is_flag=True, default=True),
)


def all_options() -> list[click.Option]:
    """For the commands run and create."""
    made = [
        click.Option([*flag.names, key(flag)], multiple=flag.many, is_flag=flag.switch, default=None)
        for flag in FLAGS
    ]
    return [*made, *OTHERS]


def key(flag: Flag) -> str:
    """The name of its value."""
    return flag.names[0].lstrip("-").replace("-", "_")


def make(values: dict[str, Any], image: str, command: Sequence[str]) -> dict[str, Any]:
    """The body of POST /containers/create. Raises Failure with status 125."""
    host = {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "ConsoleSize": [0, 0]}
    host |= {name: [] for name in ("Dns", "DnsOptions", "DnsSearch")}
    body: dict[str, Any] = {"Image": image, "Cmd": list(command) or None, "HostConfig": host}
    for flag in FLAGS:
        given = values.get(key(flag))
        if given is None or given == ():
            continue
        converted = [flag.convert(one) for one in given] if flag.many else given
        if not flag.many and not flag.switch:
            converted = _converted(flag, given)
        put(body, flag.path, converted)
    for part in (_words, _ports, _mounts, _logs, _health, _networks, _maps):
        part(body, values)
    return body


def _converted(flag: Flag, given: str) -> Any:
    try:
        return flag.convert(given)
    except ValueError:
        raise Failure(
            f'invalid argument "{given}" for "{", ".join(reversed(flag.names))}" flag: invalid syntax', 125
        ) from None


def put(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[last] = value


def _words(body: dict[str, Any], values: dict[str, Any]) -> None:
    body["Env"] = environment(values["env_file"], values["env"])
    body["Labels"] = pairs([*_lines(values["label_file"]), *values["label"]])
    if values["entrypoint"] is not None:
        body["Entrypoint"] = [values["entrypoint"]]
    attached = [name.lower() for name in values["attach"]]
    for name in attached:
        if name not in ("stdin", "stdout", "stderr"):
            raise Failure(
                f'invalid argument "{name}" for "-a, --attach" flag: valid streams are STDIN, STDOUT '
                "and STDERR",
                125,
            )
    detached = values.get("detach", False)
    everything = not attached and not detached
    body["AttachStdin"] = "stdin" in attached or (everything and bool(values["interactive"]))
    body["AttachStdout"] = "stdout" in attached or everything
    body["AttachStderr"] = "stderr" in attached or everything
    body["StdinOnce"] = bool(values["interactive"]) and body["AttachStdin"]
    if values["init"] is not None:
        body["HostConfig"]["Init"] = values["init"]


def environment(files: Sequence[str], given: Sequence[str]) -> list[str]:
    """NAME alone takes what we have under that name, if we have it."""
    found = []
    for entry in [*_lines(files), *given]:
        name, equals, _ = entry.partition("=")
        if equals:
            found.append(entry)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found


def _lines(files: Sequence[str]) -> list[str]:
    found = []
    for name in files:
        try:
            lines = Path(name).read_text().splitlines()
        except OSError as error:
            raise Failure(f"open {name}: {(error.strerror or '').lower()}", 125) from None
        found += [line.lstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return found


def pairs(entries: Sequence[str]) -> dict[str, str]:
    """ "a=b" and "a"."""
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def _ports(body: dict[str, Any], values: dict[str, Any]) -> None:
    exposed: dict[str, Any] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in values["publish"]:
        for port, binding in published(text):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    for text in values["expose"]:
        ports, _, protocol = text.partition("/")
        for number in _range(ports, text):
            exposed[f"{number}/{protocol or 'tcp'}"] = {}
    body["ExposedPorts"] = exposed
    body["HostConfig"]["PortBindings"] = bindings


def published(text: str) -> list[tuple[str, dict[str, str]]]:
    """ "[IP:][HOST:]CONTAINER[/PROTOCOL]", ranges too: one binding per port. Raises Failure."""
    if "=" in text:
        fields = pairs(text.split(","))
        text = f"{fields.get('published', '')}:{fields.get('target', '')}/{fields.get('protocol', 'tcp')}"
    rest, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise Failure(f"invalid proto: {protocol}", 125)
    address, host, inside = _published_parts(rest)
    if not inside:
        raise Failure(f"no port specified: {text}<empty>", 125)
    ports = _range(inside, text, "containerPort")
    hosts: list[str] = [str(port) for port in _range(host, text, "hostPort")] if host else [""] * len(ports)
    if len(hosts) != len(ports):
        # One container port, a range of the host's: the daemon picks.
        if len(ports) > 1:
            raise Failure(f"invalid ranges specified for container and host Ports: {inside} and {host}", 125)
        hosts = [host]
    return [
        (f"{port}/{protocol}", {"HostIp": address, "HostPort": number})
        for port, number in zip(ports, hosts, strict=True)
    ]


def _published_parts(text: str) -> tuple[str, str, str]:
    if text.startswith("["):
        address, _, text = text[1:].partition("]:")
        host, _, inside = text.rpartition(":")
        return address, host, inside
    parts = text.rsplit(":", 2)
    return ("", "", *parts)[-3:]  # type: ignore[return-value]


def _range(text: str, whole: str, what: str = "port") -> list[int]:
    first, dash, last = text.partition("-")
    try:
        low, high = int(first), int(last if dash else first)
    except ValueError:
        raise Failure(f"invalid {what}: {text}", 125) from None
    if not 0 <= low <= high <= 65535:
        raise Failure(f"invalid {what}: {text}", 125)
    return list(range(low, high + 1))


def _mounts(body: dict[str, Any], values: dict[str, Any]) -> None:
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for text in values["volume"]:
        if ":" in text:
            source, _, rest = text.partition(":")
            if source.startswith("."):
                source = os.path.abspath(source)
            binds.append(f"{source}:{rest}")
        else:
            anonymous[text] = {}
    body["Volumes"] = anonymous
    host = body["HostConfig"]
    host["Binds"] = binds or None
    host["Mounts"] = [_mount(text) for text in values["mount"]] or None
    host["Tmpfs"] = {path: options for path, _, options in (text.partition(":") for text in values["tmpfs"])}


_MOUNT: dict[str, tuple[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("source", "src"), ("Source", str)),
    **dict.fromkeys(("target", "dst", "destination"), ("Target", str)),
    "type": ("Type", str),
    "consistency": ("Consistency", str),
    "bind-propagation": ("BindOptions.Propagation", str),
    "bind-nonrecursive": ("BindOptions.NonRecursive", lambda text: text != "false"),
    "volume-nocopy": ("VolumeOptions.NoCopy", lambda text: text != "false"),
    "volume-driver": ("VolumeOptions.DriverConfig.Name", str),
    "volume-subpath": ("VolumeOptions.Subpath", str),
    "tmpfs-size": ("TmpfsOptions.SizeBytes", size),
    "tmpfs-mode": ("TmpfsOptions.Mode", lambda text: int(text, 8)),
}


def _mount(text: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": "volume"}
    for field in next(csv.reader([text])):
        name, equals, value = field.partition("=")
        if name in ("readonly", "ro"):
            mount["ReadOnly"] = value.lower() not in ("false", "0")
        elif name == "volume-opt":
            option, _, setting = value.partition("=")
            put(mount, "VolumeOptions.DriverConfig.Options", {option: setting})
        elif name == "volume-label":
            put(mount, "VolumeOptions.Labels", pairs([value]))
        elif name in _MOUNT and (equals or name in ("bind-nonrecursive", "volume-nocopy")):
            path, convert = _MOUNT[name]
            put(mount, path, convert(value))
        else:
            raise Failure(
                f'invalid argument "{text}" for "--mount" flag: '
                + (
                    f"unexpected key '{name}' in '{field}'"
                    if equals
                    else f"invalid field '{field}' must be a key=value pair"
                ),
                125,
            )
    if mount["Type"] == "bind" and mount.get("Source", "").startswith("."):
        mount["Source"] = os.path.abspath(mount["Source"])
    if not mount.get("Target"):
        raise Failure(f'invalid argument "{text}" for "--mount" flag: target is required', 125)
    return mount


def _logs(body: dict[str, Any], values: dict[str, Any]) -> None:
    driver = values["log_driver"] or ""
    if driver == "none" and values["log_opt"]:
        raise Failure("invalid logging opts for driver none", 125)
    body["HostConfig"]["LogConfig"] = {"Type": driver, "Config": pairs(values["log_opt"])}


def _health(body: dict[str, Any], values: dict[str, Any]) -> None:
    times = {
        name: nanoseconds(values[f"health_{name}"])
        for name in ("interval", "timeout", "start_period", "start_interval")
        if values[f"health_{name}"]
    }
    given = bool(times or values["health_cmd"] or values["health_retries"])
    if values["no_healthcheck"]:
        if given:
            raise Failure("--no-healthcheck conflicts with --health-* options", 125)
        body["Healthcheck"] = {"Test": ["NONE"]}
    elif given:
        body["Healthcheck"] = {
            "Test": ["CMD-SHELL", values["health_cmd"]] if values["health_cmd"] else None,
            "Retries": values["health_retries"] or 0,
            **{name.title().replace("_", ""): value for name, value in times.items()},
        }


def _networks(body: dict[str, Any], values: dict[str, Any]) -> None:
    endpoints: dict[str, Any] = {}
    for number, text in enumerate(values["network"]):
        name, settings = _network(text)
        if number == 0:
            body["HostConfig"]["NetworkMode"] = name
            settings = {**settings, **_first_network(values)}
        endpoints[name] = settings
    if not values["network"]:
        body["HostConfig"]["NetworkMode"] = "default"
        if settings := _first_network(values):
            endpoints["default"] = settings
    if values["mac_address"]:
        body["MacAddress"] = values["mac_address"]
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints}


def _network(text: str) -> tuple[str, dict[str, Any]]:
    if not re.match(r"(name|alias|ip6?|mac-address|driver-opt)=", text):
        return text, {}
    name = ""
    settings: dict[str, Any] = {}
    for field in text.split(","):
        option, _, value = field.partition("=")
        if option == "name":
            name = value
        elif option == "alias":
            settings.setdefault("Aliases", []).append(value)
        elif option in ("ip", "ip6"):
            settings.setdefault("IPAMConfig", {})["IPv4Address" if option == "ip" else "IPv6Address"] = value
        elif option == "mac-address":
            settings["MacAddress"] = value
    return name, settings


def _first_network(values: dict[str, Any]) -> dict[str, Any]:
    addresses = {"IPv4Address": values["ip"], "IPv6Address": values["ip6"]}
    addresses = {name: value for name, value in addresses.items() if value}
    if values["link_local_ip"]:
        addresses["LinkLocalIPs"] = list(values["link_local_ip"])
    settings: dict[str, Any] = {"IPAMConfig": addresses} if addresses else {}
    if values["network_alias"]:
        settings["Aliases"] = list(values["network_alias"])
    return settings


def _maps(body: dict[str, Any], values: dict[str, Any]) -> None:
    host = body["HostConfig"]
    for name, member in (("sysctl", "Sysctls"), ("storage_opt", "StorageOpt"), ("annotation", "Annotations")):
        if values[name]:
            host[member] = pairs(values[name])
