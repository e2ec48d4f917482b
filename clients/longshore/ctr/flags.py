"""The options that say what a container is: shared by ``ctr run`` and ``ctr containers create``.

`container_options` declares them, `Wishes` reads them into the SDK's options.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from longshore.client import defaults
from longshore.ctr.command import Failure, parse_labels

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from longshore.client.client import AsyncClient
    from longshore.client.containers import Container
    from longshore.client.spec import Option, Spec

Declaration = Callable[[Any], Any]


def _flag(*names: str, help: str) -> Declaration:
    return click.option(*names, is_flag=True, help=help)


def _text(*names: str, help: str, **attributes: Any) -> Declaration:
    return click.option(*names, default="", help=help, **attributes)


def _texts(*names: str, help: str) -> Declaration:
    return click.option(*names, multiple=True, help=help)


def _number(*names: str, help: str) -> Declaration:
    return click.option(*names, type=int, default=None, help=help)


# Options of the original that we don't have, and what to do instead.
UNBUILT = {
    "--apparmor-default-profile": "load a profile, and name it with --apparmor-profile",
    "--blockio-class": "no block I/O classes yet",
    "--blockio-config-file": "no block I/O classes yet",
    "--cni": "take --net-host or --with-ns network:PATH",
    "--gpus": "give the devices with --device",
    "--sandbox": "no sandboxes yet",
}
FLAGS_WITHOUT_VALUE = frozenset(("--cni",))


def _unbuilt(name: str) -> Declaration:
    def refuse(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            raise Failure(f"{name} is not built yet", UNBUILT[name])

    bare = name in FLAGS_WITHOUT_VALUE
    return click.option(name, hidden=True, expose_value=False, is_flag=bare, callback=refuse)


container_options: tuple[Declaration, ...] = (
    _flag("--rootfs", help="The first argument is a directory of the host, no image."),
    _text("--snapshotter", help="Snapshotter.", envvar="CONTAINERD_SNAPSHOTTER"),
    _text("--platform", help="Of the image, if not the host's."),
    click.option(
        "-c",
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        default=None,
        help="A whole runtime specification; no image then.",
    ),
    _text("--cwd", help="Working directory."),
    _texts("--env", help="NAME=value; NAME alone removes."),
    click.option(
        "--env-file",
        type=click.Path(exists=True, dir_okay=False),
        default=None,
        help="A file of NAME=value lines.",
    ),
    _texts("--label", help="key=value on the container."),
    _texts("--snapshotter-label", help="key=value on its snapshot."),
    _texts("--annotation", help="key=value in the specification."),
    _texts("--mount", help="type=bind,src=/tmp,dst=/host,options=rbind:ro"),
    _flag("--net-host", help="Share the host's network."),
    _flag("--privileged", help="All capabilities and devices, nothing masked."),
    _flag("--privileged-without-host-devices", help="With --privileged: none of the host's device nodes."),
    _flag("--read-only", help="Read-only root file system."),
    _text("--runtime", help="Runtime name, or the path of a shim."),
    _text("--runtime-config-path", help="A configuration for runtimes other than runc."),
    _text("--runc-binary", help="The OCI runtime to execute."),
    _text("--runc-root", help="Where the OCI runtime keeps its state."),
    _flag("--runc-systemd-cgroup", help="Have systemd make the cgroup."),
    _flag("-t", "--tty", help="Give it a terminal."),
    _texts("--with-ns", help="type:path, a namespace to join."),
    _flag("--allow-new-privs", help="Let set-uid programs gain privileges."),
    click.option("--memory-limit", type=int, default=None, help="Bytes."),
    _texts("--cap-add", help="CAP_..., or ALL."),
    _texts("--cap-drop", help="CAP_..., or ALL."),
    _flag("--seccomp", help="Filter system calls, by the default profile."),
    _text("--seccomp-profile", help="With --seccomp: a profile of the runtime specification's form."),
    _text("--apparmor-profile", help="An AppArmor profile that the kernel has."),
    _text("--hostname", help="Host name."),
    _text("-u", "--user", help="Name or number, with :group."),
    _number("--cpu-quota", help="CFS quota in microseconds."),
    _number("--cpu-period", help="CFS period in microseconds."),
    _number("--cpu-shares", help="Relative weight."),
    click.option("--cpus", type=float, default=None, help="At most so many processors' time."),
    _text("--cpuset-cpus", help="CPUs, like 0-2."),
    _text("--cpuset-mems", help="Memory nodes."),
    _number("--rlimit-nofile", help="Open files, soft and hard."),
    _texts("--device", help="A device of the host, or a folder of them."),
    _text("--rdt-class", help="A class of Intel's cache and bandwidth control."),
    _text("--rootfs-propagation", help="How mounts travel: private, rslave, shared, ..."),
    _texts("--uidmap", help="container:host:length, in a user namespace."),
    _texts("--gidmap", help="container:host:length."),
    _flag("--remap-labels", help="Tell the snapshotter of --uidmap and --gidmap by labels."),
    *map(_unbuilt, UNBUILT),
    _flag("--no-pivot", help="chroot instead of pivot_root."),
    click.option("--cgroup", default=None, help="cgroup path; an empty one leaves it to the runtime."),
)


def with_container_options(function: Any) -> Any:
    for declaration in reversed(container_options):
        function = declaration(function)
    return function


class Wishes:
    """The parsed options. Everything that can be wrong in them is said before the daemon is asked."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __getattr__(self, name: str) -> Any:
        return self.values[name]

    def options(self) -> list[Option]:
        """Edits of the default specification, in the order in which they must be made."""
        from longshore.client import spec

        edits: list[Option] = []
        if self.env_file:
            edits.append(spec.with_env(env_file(self.env_file)))
        switches = (
            (self.tty, spec.with_tty),
            (self.privileged, spec.with_privileged),
            (self.privileged and not self.privileged_without_host_devices, spec.with_host_devices),
            (self.net_host, spec.with_host_network),
            (self.allow_new_privs, spec.with_new_privileges),
            (self.read_only, spec.with_readonly_root),
        )
        edits += [edit for wanted, edit in switches if wanted]
        texts: tuple[tuple[Any, Callable[[Any], Option]], ...] = (
            (self.env, spec.with_env),
            (self.cwd, spec.with_cwd),
            (self.hostname, spec.with_hostname),
            (self.cap_add, spec.with_added_capabilities),
            (self.cap_drop, spec.with_dropped_capabilities),
            (self.memory_limit, spec.with_memory_limit),
            (self.apparmor_profile, spec.with_apparmor),
            (self.cpus, spec.with_cpus),
            (self.rdt_class, spec.with_rdt_class),
            (self.rootfs_propagation, spec.with_rootfs_propagation),
        )
        edits += [make(value) for value, make in texts if value]
        if self.annotation:
            edits.append(spec.with_annotations(parse_labels(self.annotation)))
        edits += [mount_option(text) for text in self.mount]
        edits += [spec.with_namespace(*namespace(text)) for text in self.with_ns]
        edits += [spec.with_device(path) for path in self.device]
        cpu = {
            key: value
            for key, value in (
                ("quota", self.cpu_quota),
                ("period", self.cpu_period),
                ("shares", self.cpu_shares),
                ("cpus", self.cpuset_cpus),
                ("mems", self.cpuset_mems),
            )
            if value
        }
        if cpu:
            edits.append(spec.with_cpu(**cpu))
        if self.rlimit_nofile is not None:
            edits.append(spec.with_rlimit("RLIMIT_NOFILE", self.rlimit_nofile))
        if self.uidmap or self.gidmap:
            uid_maps, gid_maps = map(id_map, self.uidmap), map(id_map, self.gidmap)
            edits.append(spec.with_user_namespace(list(uid_maps), list(gid_maps)))
        if self.seccomp or self.seccomp_profile:
            edits.append(self._seccomp())
        if self.cgroup is not None:
            edits.append(spec.with_cgroup(self.cgroup))
        return edits

    def _seccomp(self) -> Option:
        from longshore.client import spec

        if not self.seccomp:
            raise Failure("--seccomp-profile needs --seccomp")
        if not self.seccomp_profile:
            return spec.with_default_seccomp
        with open(self.seccomp_profile) as file:
            try:
                return spec.with_seccomp(json.load(file))
            except ValueError as error:
                raise Failure(f"{self.seccomp_profile} is no JSON: {error}") from None

    def snapshot_labels(self) -> dict[str, str]:
        """What the snapshotter is told."""
        labels = parse_labels(self.snapshotter_label)
        if self.remap_labels:
            for key, maps in (("uidmapping", self.uidmap), ("gidmapping", self.gidmap)):
                labels[f"containerd.io/snapshot/{key}"] = ",".join(
                    ":".join(map(str, id_map(text))) for text in maps
                )
        return labels

    def runtime_options(self) -> Message | None:
        """What the runtime gets: runc's options, or those of a shim with a configuration file."""
        if self.runtime_config_path:
            from longshore.api.types.runtimeoptions.v1.api_pb2 import Options as Generic

            return Generic(config_path=os.path.abspath(self.runtime_config_path))
        from longshore.api.types.runc.options.oci_pb2 import Options

        binary = self.runc_binary
        if "/" in binary:
            binary = os.path.abspath(binary)
        return Options(
            binary_name=binary,
            root=self.runc_root,
            systemd_cgroup=self.runc_systemd_cgroup,
            no_pivot_root=self.no_pivot,
        )

    def spec(self) -> Spec | None:
        """The specification of --config."""
        if self.config is None:
            return None
        with open(self.config) as file:
            try:
                found: Spec = json.load(file)
            except ValueError as error:
                raise Failure(f"{self.config} is no JSON: {error}") from None
        return found


async def create_container(client: AsyncClient, wishes: Wishes, words: Sequence[str]) -> Container:
    """The container that a command line asks for: ``IMAGE|ROOTFS ID [CMD...]``, or ``ID`` with --config."""
    spec = wishes.spec()
    if spec is None and len(words) < 2:
        raise click.UsageError("image (or root file system) and container id must be given")
    if not words:
        raise click.UsageError("a container id must be given")
    runtime = wishes.runtime or defaults.RUNTIME
    common: dict[str, Any] = {
        "runtime": runtime,
        "runtime_options": wishes.runtime_options(),
        "labels": parse_labels(wishes.label),
    }
    if spec is not None:
        return await client.containers.create(words[-1], spec=spec, **common)
    source, id, *args = words
    common |= {"args": args, "user": wishes.user}
    if wishes.rootfs:
        return await client.containers.create(id, *wishes.options(), rootfs=directory(source), **common)
    common |= {"snapshotter": wishes.snapshotter, "platform": wishes.platform}
    common |= {"snapshot_labels": wishes.snapshot_labels()}
    return await client.containers.create(id, *wishes.options(), image=source, **common)


def directory(path: str) -> str:
    """The absolute path. Raises Failure."""
    if not os.path.isdir(path):
        raise Failure(f"{path} is no directory")
    return os.path.abspath(path)


def env_file(path: str) -> list[str]:
    """``NAME=value`` lines; empty ones and comments are skipped, a bare NAME takes our value."""
    entries: list[str] = []
    with open(path) as file:
        for line in file:
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            if "=" not in entry:
                entry = f"{entry}={os.environ.get(entry, '')}"
            entries.append(entry)
    return entries


_MOUNT_KEYS = {
    "destination": "destination",
    "dst": "destination",
    "options": "options",
    "source": "source",
    "src": "source",
    "target": "destination",
    "type": "type",
}


def mount_option(text: str) -> Option:
    """``type=bind,src=/tmp,dst=/host,options=rbind:ro``. Raises Failure."""
    from longshore.client.spec import with_mount

    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in _MOUNT_KEYS:
            raise Failure(
                f"bad --mount {text!r}: {part!r}", "say type=bind,src=/tmp,dst=/host,options=rbind:ro"
            )
        fields[_MOUNT_KEYS[key]] = value
    if "destination" not in fields:
        raise Failure(f"bad --mount {text!r}: no dst")
    return with_mount(
        fields.get("source", ""),
        fields["destination"],
        type=fields.get("type", "bind"),
        options=[option for option in fields.get("options", "").split(":") if option],
    )


def namespace(text: str) -> tuple[str, str]:
    """``network:/proc/12/ns/net``. Raises Failure."""
    type, colon, path = text.partition(":")
    if not colon or not path:
        raise Failure(f"bad --with-ns {text!r}", "say type:path, like network:/proc/1/ns/net")
    return type, path


def id_map(text: str) -> tuple[int, int, int]:
    """``container:host:length``. Raises Failure."""
    try:
        inside, host, length = map(int, text.split(":"))
    except ValueError:
        raise Failure(f"bad id map {text!r}", "say container:host:length, like 0:100000:65536") from None
    return inside, host, length
