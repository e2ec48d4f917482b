"""The OCI runtime as the shim's workers use it: a Protocol, and the choice of an implementation.

`library.py` is our own runtime, run in the worker itself; `command.py` executes
any other by the command line that runc gave the world. All calls block, so
they are made in workers only; a created container's process outlives the
worker and becomes the shim's child.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError

from longshore.api import typeurls
from longshore.api.errors import Error, InvalidArgument, undecodable
from longshore.api.types.runc.options.oci_pb2 import CheckpointOptions, Options
from longshore.linux import files

DEFAULT_ROOT = "/run/containerd/runc"
OPTIONS_FILE = "options.json"
# What clients call the usual runtime: dockerd names it in every request. Here that is ours; a path picks the original.
USUAL_BINARY = "runc"

Decoded = TypeVar("Decoded", Options, CheckpointOptions)


class RuntimeFailure(Error):
    """The runtime refused or failed; the text is its own."""


class Settings(NamedTuple):
    """What the client chose for a container (containerd.runc.v1.Options).

    `root` is without the namespace; `binary` is empty for our own runtime.
    """

    root: str = ""
    binary: str = ""
    systemd_cgroup: bool = False
    no_pivot: bool = False
    no_new_keyring: bool = False
    io_uid: int = 0
    io_gid: int = 0
    shim_cgroup: str = ""
    criu_image: str = ""
    criu_work: str = ""


class Made(NamedTuple):
    """What a runtime made: the cgroup's directories by controller, and its version.

    `directory` is set if start and delete of this container need no worker: the
    state directory of our own runtime (see `longshore.shim.direct`).
    """

    cgroup_paths: dict[str, str]
    cgroup_version: int
    directory: str


class Image(NamedTuple):
    """Where criu's files are, and what it is told. `flags` are names of the runtimes' own options, without dashes."""

    path: str
    work: str
    flags: tuple[str, ...] = ()
    cgroups_mode: str = ""
    empty_namespaces: tuple[str, ...] = ()


class Runtime(Protocol):
    """The verbs. All raise `Error` with the runtime's words."""

    def create(self, bundle: str, id: str, *, console: str, no_pivot: bool, no_new_keyring: bool) -> int:
        """Make a container with our descriptors 0, 1, 2 (or `console`); its pid, waiting for `start`."""

    def made(self, id: str, pid: int) -> Made:
        """About the container that `create` just made. Raises OSError when it has been killed already."""

    def start(self, id: str) -> None: ...

    def execute(self, bundle: str, id: str, exec_id: str, process: bytes, *, console: str) -> int:
        """Start a process (OCI JSON) in a running container; its pid."""

    def kill(self, id: str, signal: int, *, all: bool) -> None: ...

    def delete(self, id: str, *, force: bool) -> None: ...

    def pause(self, id: str) -> None: ...

    def resume(self, id: str) -> None: ...

    def update(self, id: str, resources: bytes) -> None:
        """Apply OCI LinuxResources (JSON)."""

    def pids(self, id: str) -> list[int]: ...

    def checkpoint(self, id: str, image: Image, *, leave_running: bool) -> None:
        """Write a running container to disk; without `leave_running` it ends."""

    def restore(self, bundle: str, id: str, image: Image) -> int:
        """A running container from disk, with our descriptors 0, 1, 2; its pid."""


# The names that options have in the protocol, which are also those in options.json.
_NAMES = {
    "root": "root",
    "binary": "binary_name",
    "systemd_cgroup": "systemd_cgroup",
    "no_pivot": "no_pivot_root",
    "no_new_keyring": "no_new_keyring",
    "io_uid": "io_uid",
    "io_gid": "io_gid",
    "shim_cgroup": "shim_cgroup",
    "criu_image": "criu_image_path",
    "criu_work": "criu_work_path",
}


def settings_from(options: Any) -> Settings:
    """Settings from a request's Any (absent: all defaults). Raises InvalidArgument on a type not ours."""
    name = typeurls.type_name(options) or options.type_url
    if not name:
        return Settings()
    if name != Options.DESCRIPTOR.full_name:
        raise InvalidArgument(f"unsupported runtime options type {options.type_url!r}: invalid argument")
    given = _decoded(Options, options)
    settings = Settings(**{ours: getattr(given, theirs) for ours, theirs in _NAMES.items()})
    return settings._replace(binary="") if settings.binary == USUAL_BINARY else settings


def _decoded(kind: type[Decoded], options: Any) -> Decoded:
    try:
        return kind.FromString(options.value)
    except DecodeError as error:
        raise InvalidArgument(f"{options.type_url}: {undecodable(error)}: invalid argument") from None


_CHECKPOINT_FLAGS = {
    "open_tcp": "tcp-established",
    "external_unix_sockets": "ext-unix-sk",
    "terminal": "shell-job",
    "file_locks": "file-locks",
}


def image_from(options: Any, path: str, work: str) -> tuple[Image, bool]:
    """What a checkpoint's Any asks for, and whether the task shall end. Raises InvalidArgument on a type not ours."""
    name = typeurls.type_name(options) or options.type_url
    if name not in ("", CheckpointOptions.DESCRIPTOR.full_name):
        raise InvalidArgument(f"unsupported checkpoint options type {options.type_url!r}: invalid argument")
    given = _decoded(CheckpointOptions, options)
    image = Image(
        path=path or given.image_path,
        work=given.work_path or work,
        flags=tuple(flag for field, flag in _CHECKPOINT_FLAGS.items() if getattr(given, field)),
        cgroups_mode=given.cgroups_mode,
        empty_namespaces=tuple(given.empty_namespaces),
    )
    if not image.path:
        raise InvalidArgument("checkpoint needs a path for its images: invalid argument")
    return image, given.exit


def save(bundle: str, settings: Settings) -> None:
    """Leave in the bundle what `delete` must know when this shim is no more."""
    given = {_NAMES[ours]: value for ours, value in settings._asdict().items() if value}
    files.replace_file(f"{bundle}/{OPTIONS_FILE}", json.dumps(given).encode())


def load(bundle: str) -> Settings:
    """The saved settings; defaults if there are none."""
    try:
        given = json.loads(files.read_bounded(f"{bundle}/{OPTIONS_FILE}"))
    except FileNotFoundError:
        return Settings()
    return Settings(**{ours: given[theirs] for ours, theirs in _NAMES.items() if theirs in given})


def choose(settings: Settings, namespace: str, bundle: str) -> Runtime:
    """The runtime of a container."""
    root = os.path.join(settings.root or DEFAULT_ROOT, namespace)
    if settings.binary:
        from longshore.shim.command import Command

        return Command(settings.binary, root, bundle, systemd_cgroup=settings.systemd_cgroup)
    from longshore.shim.library import Library

    return Library(root, systemd_cgroup=settings.systemd_cgroup)
