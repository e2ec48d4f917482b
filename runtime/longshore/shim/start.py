"""Bringing a shim to life: its socket, its group, and the process that serves it.

    from our daemon     the zygote forks; the child is the shim, and answers on the reply socket
    from any other      `containerd-shim-longshore-v1 start` forks; the child is the shim, the parent
                        prints its address and ends

Containers with the same group annotation share a shim: the first start makes
it, the others find its socket answering.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import socket
import struct
import sys
from functools import cache
from typing import Any, NamedTuple, NoReturn

from longshore.api.errors import Error
from longshore.linux import files
from longshore.shim import command, library, rehearsal  # noqa: F401  (loaded before the first fork, for the workers)
from longshore.shim.daemon import Daemon
from longshore.shim.runtime import DEFAULT_ROOT
from longshore.zygote import wire

DEFAULT_SOCKET_DIR = "/run/containerd/s"
# In this order; the first that is present names the group.
GROUP_ANNOTATIONS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
MAX_OOM_SCORE = 1000
_PATH_LIMIT = 107
_LAST_FD = 0x7FFFFFFF
_CREDENTIALS = struct.Struct("iII")
PROTOCOL = "ttrpc"


class Parameters(NamedTuple):
    """What a shim is told at its start (see `longshore.zygote.client.ShimRequest`)."""

    namespace: str
    id: str
    bundle: str
    address: str
    ttrpc_address: str = ""
    exits_address: str = ""
    socket_dir: str = ""
    runtime_root: str = ""
    debug: bool = False
    version: int = 3


class Place(NamedTuple):
    """Where a shim answers. `listener` is None when one was there already, with pid `pid`."""

    path: str
    listener: socket.socket | None
    pid: int

    @property
    def address(self) -> str:
        return f"unix://{self.path}"


def rehearse(directory: str) -> None:
    """Warm the zygote up, before its first fork (see `longshore.shim.rehearsal`). Raises OSError."""
    rehearsal.rehearse(directory, _rehearse_start)


def _rehearse_start(folder: str) -> None:
    parameters = Parameters(namespace="n", id="c", bundle=folder, address="a", socket_dir=folder)
    place = settle(parameters)
    if place.listener is not None:
        place.listener.close()
        os.unlink(place.path)
    _argument_area()


def from_zygote(reply: int) -> NoReturn:
    """In a child of the zygote: become the shim, or find the one of the group."""
    wire.started(reply)
    try:
        parameters = Parameters(**wire.receive(reply))
        os.setsid()
        place = settle(parameters)
        answer = {
            "pid": place.pid,
            "address": place.address,
            "version": parameters.version,
            "protocol": PROTOCOL,
        }
        wire.answer(reply, answer)
    except Exception as error:
        wire.answer_error(reply, error)
        os._exit(1)
    os.close(reply)
    serve(place, parameters)


def settle(parameters: Parameters) -> Place:
    """Listen on the shim's socket, or find that a shim of the group does. Raises Error or OSError."""
    directory = parameters.socket_dir or DEFAULT_SOCKET_DIR
    path = socket_path(directory, parameters.address, parameters.namespace, group(parameters))
    # Two starts of one group must not both find the socket dead and replace it.
    lock = _open_lock(directory)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(path):
            running = _answering(path)
            if running:
                return Place(path, None, running)
            os.unlink(path)
        return Place(path, _listen(path), os.getpid())
    finally:
        os.close(lock)


def serve(place: Place, parameters: Parameters) -> NoReturn:
    """Be the shim until it is shut down; without a listener there is nothing to do."""
    if place.listener is None:
        os._exit(0)
    try:
        _become_daemon(place.listener.fileno(), parameters)
        Daemon(
            place.listener,
            namespace=parameters.namespace,
            ttrpc_address=parameters.ttrpc_address or f"{parameters.address}.ttrpc",
            exits_address=parameters.exits_address,
            runtime_root=parameters.runtime_root or DEFAULT_ROOT,
            log=f"{parameters.bundle}/log",
        ).run()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def group(parameters: Parameters) -> str:
    """The id whose socket the container's shim has: the group's, or the container's own."""
    try:
        data = files.read_bounded(f"{parameters.bundle}/config.json", 64 << 20)
    except FileNotFoundError:
        return parameters.id
    # A spec is large and annotations of this kind are rare: don't fill the shim with a parsed one.
    if not any(name.encode() in data for name in GROUP_ANNOTATIONS):
        return parameters.id
    spec: dict[str, Any] = json.loads(data)
    annotations = spec.get("annotations") or {}
    for name in GROUP_ANNOTATIONS:
        if annotations.get(name):
            return str(annotations[name])
    return parameters.id


def socket_path(directory: str, address: str, namespace: str, name: str) -> str:
    """``<directory>/<hex sha256 of "<daemon's address>/<namespace>/<name>">``. Raises Error if too long."""
    digest = hashlib.sha256(f"{address}/{namespace}/{name}".encode()).hexdigest()
    path = f"{directory}/{digest}"
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise Error(f"shim socket directory {directory} is too long (42 characters at most)")
    return path


def _answering(path: str) -> int:
    """The pid of the shim that listens there, 0 if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return 0
        data = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(data)[0]
        return pid


def _listen(path: str) -> socket.socket:
    # In the process that will serve: peers learn the pid of whoever called listen(2).
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _open_lock(directory: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(f"{directory}/lock", flags, 0o600)
    except FileNotFoundError:
        os.makedirs(directory, 0o700, exist_ok=True)
        return os.open(f"{directory}/lock", flags, 0o600)


def _become_daemon(listener: int, parameters: Parameters) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, listener)
    os.closerange(listener + 1, _LAST_FD)
    os.chdir("/")
    os.umask(0o022)
    _write("/proc/self/comm", b"longshore-shim", 0)
    _set_title(
        f"containerd-shim-longshore-v1 -namespace {parameters.namespace} -id {parameters.id} "
        f"-address {parameters.address}"
    )
    _raise_oom_score()
    gc.disable()


def _raise_oom_score() -> None:
    """One above the daemon's (inherited): in need, the kernel takes us before it takes the daemon."""
    score = int(files.read_bounded("/proc/self/oom_score_adj"))
    _write("/proc/self/oom_score_adj", b"%d" % min(score + 1, MAX_OOM_SCORE), 0)


def _set_title(title: str) -> None:
    """Show in ps which container this is: overwrite the arguments that we were started with."""
    start, end = _argument_area()
    data = title.encode()[: end - start - 1]
    _write("/proc/self/mem", data + bytes(end - start - len(data)), start)


@cache
def _argument_area() -> tuple[int, int]:
    """Where the kernel put the arguments; the same in every child, so the zygote asks once."""
    fields = files.read_bounded("/proc/self/stat").rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46])


def _write(path: str, data: bytes, offset: int) -> None:
    """Write to a file of the kernel's; that it doesn't let us is no reason not to run."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.pwrite(fd, data, offset)
    except OSError:
        pass
    finally:
        os.close(fd)
