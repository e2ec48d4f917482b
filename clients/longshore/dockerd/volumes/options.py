"""Options of the local driver: `type`, `o` and `device` of a mount, and `size`."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from longshore.api import errors
from longshore.linux import mounts

_KNOWN: Final = ("type", "o", "device", "size")
_NEEDS: Final = (("device", ("type",)), ("type", ("device",)), ("o", ("device", "type")))
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kKmMgGtTpP])?[iI]?[bB]?)?")
_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_NETWORK_TYPES: Final = ("nfs", "cifs")


class Device(NamedTuple):
    """What is to be mounted at a volume's directory."""

    source: str
    type: str
    options: str

    @property
    def mount(self) -> mounts.Mount:
        return mounts.Mount(self.type, self.source, [word for word in self.options.split(",") if word])


def check(options: Mapping[str, str] | None) -> None:
    """Raises InvalidArgument with the original's words."""
    if not options:
        return
    for name in options:
        if name not in _KNOWN:
            raise errors.InvalidArgument(f'invalid option: "{name}"')
    device = options.get("device", "")
    if options.get("type") == "cifs" and device and urlsplit(device).port is not None:
        raise errors.InvalidArgument("port not allowed in CIFS device URL, include 'port' in 'o='")
    if _bytes(options.get("size", "0")) > 0:
        raise errors.InvalidArgument("quota size requested but no quota support")
    for name, others in _NEEDS:
        for other in others:
            if name in options and other not in options:
                raise errors.InvalidArgument(f'missing required option: "{other}"')


def device(options: Mapping[str, str] | None) -> Device | None:
    """The mount that a volume with these options is, if it is one."""
    options = options or {}
    if not options.get("device") and not options.get("type"):
        return None
    return Device(options.get("device", ""), options.get("type", ""), options.get("o", ""))


async def resolved(device: Device) -> Device:
    """With the server's address for its name: the kernel resolves none. Raises OSError."""
    if device.type not in _NETWORK_TYPES:
        return device
    words = device.options.split(",")
    server = next((word[5:] for word in words if word.startswith("addr=")), "")
    if server:
        address = await _address(server)
        options = ",".join(f"addr={address}" if word == f"addr={server}" else word for word in words)
        return device._replace(options=options)
    host = urlsplit(device.source).hostname if device.type == "cifs" else None
    if host:
        return device._replace(source=device.source.replace(host, await _address(host), 1))
    return device


def hidden(text: str, device: Device) -> str:
    """`text` without the password that may be among the options."""
    for word in device.options.split(","):
        if word.startswith("password="):
            text = text.replace(word, "password=********")
    return text


async def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return str(found[0][4][0])


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise errors.InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** _UNITS[(match[2] or "").lower()])
