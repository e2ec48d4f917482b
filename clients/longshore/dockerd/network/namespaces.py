"""Network namespaces that are held by a file, and the way into them and back.

Network namespaces belong to threads, so one thread of dockerd may enter them
(`inside`) while the others stay: no process is forked for a container's
network. What is opened in there (sockets) stays there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from longshore.linux import libc, mounts, namespaces

_OWN: Final = "/proc/thread-self/ns/net"


def open_own() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """The calling thread is in the namespace `fd` meanwhile."""
    home = open_own()
    try:
        namespaces.setns(fd, namespaces.CLONE_NEWNET)
        try:
            yield
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNET)
    finally:
        os.close(home)


def make(path: str) -> int:
    """A new namespace held by the file `path`; its descriptor, which the caller closes.

    Loopback is down in it. IPv6 is off on links that are still to come: a network that has it says so.
    """
    Path(path).touch(mode=0o444)
    home = open_own()
    try:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        try:
            libc.call("mount", libc.text(_OWN), libc.text(path), 0, mounts.MS_BIND, 0, path=path)
            _write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            namespaces.setns(home, namespaces.CLONE_NEWNET)
    except BaseException:
        remove(path)
        raise
    finally:
        os.close(home)


def remove(path: str) -> None:
    """Let go of the namespace; it ends with its last process. Twice is once."""
    with suppress(OSError):
        libc.call("umount2", libc.text(path), mounts.MNT_DETACH, path=path)
    with suppress(FileNotFoundError):
        os.unlink(path)


def is_held(path: str) -> bool:
    """Whether `path` is a namespace, not only the file left by one (after a reboot, or a crash in `make`)."""
    try:
        return os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev
    except FileNotFoundError:
        return False


def write_sysctl(name: str, value: str) -> None:
    """`name` as a path below /proc/sys/net, of the namespace that the calling thread is in; OSError."""
    _write(f"/proc/sys/net/{name}", value, missing_ok=False)


def _write(path: str, value: str, missing_ok: bool = True) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if missing_ok:
            return
        raise
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
