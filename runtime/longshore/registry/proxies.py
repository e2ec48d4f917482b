"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY, read as Go programs read them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from longshore.registry.errors import BadConfiguration

_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str, environ: Mapping[str, str]) -> str:
    """The proxy's address for `url`, or "". Raises BadConfiguration."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name) or ""
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    if not proxy or is_loopback(host) or _excepted(host, port, environ):
        return ""
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise BadConfiguration(
            f"{name.upper()}={proxy}: only http and https proxies are supported",
            "set it to the http:// address of a proxy, or name the registry in NO_PROXY",
        )
    return proxy


def is_loopback(host: str) -> bool:
    """localhost, names below it, 127.0.0.0/8 and ::1."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _excepted(host: str, port: int, environ: Mapping[str, str]) -> bool:
    listed = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    return any(_matches(host, port, entry.strip().lower()) for entry in listed.split(","))


def _matches(host: str, port: int, entry: str) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    name, colon, wanted_port = entry.rpartition(":")
    if colon and wanted_port.isdigit():
        if int(wanted_port) != port:
            return False
        entry = name
    entry = entry.removeprefix("*")
    return host == entry.lstrip(".") if not entry.startswith(".") and host == entry else _below(host, entry)


def _below(host: str, entry: str) -> bool:
    """``example.com`` covers its subdomains; ``.example.com`` only these."""
    return host.endswith(entry if entry.startswith(".") else f".{entry}")
