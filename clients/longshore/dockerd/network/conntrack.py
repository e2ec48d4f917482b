"""Flows that the kernel remembers: those of a UDP port that is published, or no longer, must be decided anew.

Where a packet of a flow goes was settled by its first one. A client that goes
on sending to the port would else reach a container that has gone, for as long
as it doesn't pause.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Container
from typing import Final

from longshore.dockerd.network import netlink
from longshore.dockerd.network.netlink import Message, Netlink

_NETFILTER: Final = 12  # NETLINK_NETFILTER
_GET: Final = 0x101  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_DELETE: Final = 0x102
_NESTED: Final = 0x8000
_TUPLE_ORIGINAL: Final = 1
_TUPLE_PROTOCOL: Final = 2
_NUMBER: Final = 1
_DESTINATION_PORT: Final = 3
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
# Kernels without connection tracking, or without its netlink interface.
_UNABLE: Final = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOENT)


def forget_udp(ports: Container[int]) -> int:
    """Forget the flows to these ports of the host; how many there were. OSError."""
    try:
        with Netlink(_NETFILTER) as tracker:
            return sum(_forget(tracker, family, ports) for family in _FAMILIES)
    except OSError as error:
        if error.errno in _UNABLE:
            return 0
        raise


def _forget(tracker: Netlink, family: int, ports: Container[int]) -> int:
    head = struct.pack("=BBH", family, 0, 0)
    flows = [data[len(head) :] for data in tracker.dump(_GET, head)]
    found = [original for flow in flows if (original := _original(flow)) and _port(original) in ports]
    nested = [netlink.attribute(_TUPLE_ORIGINAL | _NESTED, each) for each in found]
    tracker.attempt(*(Message(_DELETE, 0, head + each) for each in nested))
    return len(found)


def _original(flow: bytes) -> bytes:
    return dict(netlink.attributes(flow)).get(_TUPLE_ORIGINAL, b"")


def _port(original: bytes) -> int:
    """The destination port of a UDP flow, -1 of any other."""
    protocol = dict(netlink.attributes(dict(netlink.attributes(original)).get(_TUPLE_PROTOCOL, b"")))
    if protocol.get(_NUMBER, b"")[:1] != bytes([socket.IPPROTO_UDP]):
        return -1
    return int.from_bytes(protocol.get(_DESTINATION_PORT, b""), "big")
