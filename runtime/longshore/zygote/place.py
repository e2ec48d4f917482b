"""Where a shim answers: the path of its socket, the group it serves, and the socket itself.

Done by whoever asks for the shim (containerd's client of the zygote, or the
shim's own `start`), so that the shim's process begins with a socket in its hand.
Containers with the same group annotation share a shim: the first start makes
it, the others find its socket answering.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import struct
from typing import Any, NamedTuple

# In this order; the first that is present names the group.
GROUP_ANNOTATIONS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
BACKLOG = 128
_PATH_LIMIT = 107
_CREDENTIALS = struct.Struct("iII")


class Place(NamedTuple):
    """`listener` is None when a shim was there already, with pid `pid`. `lock` (-1: none) keeps others out."""

    path: str
    listener: socket.socket | None
    pid: int
    lock: int

    @property
    def address(self) -> str:
        return f"unix://{self.path}"

    def settled(self) -> None:
        """The shim has taken over, or won't: close what is ours, and let others of the group in."""
        if self.listener is not None:
            self.listener.close()
        if self.lock >= 0:
            os.close(self.lock)


def settle(directory: str, address: str, namespace: str, id: str, bundle: str) -> Place:
    """Listen on the shim's socket, or find that a shim of the group does; `Place.settled` must follow.

    Blocks. Raises OSError, or ValueError when `directory` is too long.
    """
    name = group(bundle, id)
    path = socket_path(directory, address, namespace, name)
    if not os.path.isdir(directory):
        os.makedirs(directory, 0o700, exist_ok=True)
    # Two starts of one group must not both find the socket dead and replace it. A start of a single
    # container has no rival: its containerd makes one at a time.
    lock = _locked(f"{directory}/lock") if name != id else -1
    try:
        running = _answering(path)
        if running:
            return Place(path, None, running, lock)
        return Place(path, _listen(path), 0, lock)
    except BaseException:
        if lock >= 0:
            os.close(lock)
        raise


def take_over(listener: socket.socket) -> None:
    """In the process that will serve: peers learn the pid of whoever called listen(2) last."""
    listener.listen(BACKLOG)


def group(bundle: str, id: str) -> str:
    """The id whose socket the container's shim has: the group's, or the container's own."""
    try:
        with open(f"{bundle}/config.json", "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return id
    # A spec is large and annotations of this kind are rare: look before parsing.
    if not any(name.encode() in data for name in GROUP_ANNOTATIONS):
        return id
    spec: dict[str, Any] = json.loads(data)
    annotations = spec.get("annotations") or {}
    for name in GROUP_ANNOTATIONS:
        if annotations.get(name):
            return str(annotations[name])
    return id


def socket_path(directory: str, address: str, namespace: str, name: str) -> str:
    """``<directory>/<hex sha256 of "<daemon's address>/<namespace>/<name>">``. Raises ValueError if too long."""
    digest = hashlib.sha256(f"{address}/{namespace}/{name}".encode()).hexdigest()
    path = f"{directory}/{digest}"
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise ValueError(f"shim socket directory {directory} is too long (42 characters at most)")
    return path


def _locked(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


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
    try:
        os.unlink(path)  # a dead shim's
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        # Before listen(2) nobody can connect. Not by umask: a daemon's other threads make files, too.
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
