"""Bring up the loopback interface of a new network namespace."""

from __future__ import annotations

import os

from longshore.linux import libc

_SOCKET = {"x86_64": 41, "aarch64": 198}[libc.MACHINE]
_AF_INET, _SOCK_DGRAM, _CLOEXEC = 2, 2, 0o2000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1


def loopback_up() -> None:
    """``ip link set lo up`` in this namespace."""
    fd = libc.raw(_SOCKET, _AF_INET, _SOCK_DGRAM | _CLOEXEC, 0)
    if fd == -1:
        raise libc.oserror("socket")
    try:
        request = bytearray(40)
        request[:2] = b"lo"
        libc.call("ioctl", fd, _SIOCGIFFLAGS, libc.buffer(request), path="lo")
        flags = int.from_bytes(request[16:18], "little") | _IFF_UP
        request[16:18] = flags.to_bytes(2, "little")
        libc.call("ioctl", fd, _SIOCSIFFLAGS, libc.buffer(request), path="lo")
    finally:
        os.close(fd)
