"""Which hosts serve a registry's name, and how to speak to each: hosts.toml, mirrors, certificates.

A plan as data. `hosts_for("docker.io", settings)` answers with `Host`s in the
order in which they are asked. The format is containerd's:

    server = "https://registry.example.com"          # optional: the registry itself by default

    [host."https://mirror.example.com"]
      capabilities = ["pull", "resolve"]
      ca = "ca.crt"                                   # relative to this file
      client = [["client.cert", "client.key"]]
      header = {X-Team = "blue"}
      dial_timeout = "3s"

The file is `<folder>/<name>/hosts.toml`; for a name with a port the folder
`host_port_` is looked for before `host:port`, and `_default` serves all names
without a folder. Without a hosts.toml a folder is read as Docker does: `*.crt`
are authorities, `*.cert` with `*.key` client certificates.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from longshore.registry.errors import BadConfiguration
from longshore.registry.proxies import is_loopback
from longshore.registry.references import DOCKER_HUB

HUB_HOST = "registry-1.docker.io"
CAPABILITIES = frozenset(("pull", "resolve", "push", "referrers"))
API = "/v2"

_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class TLS(NamedTuple):
    """Files, not their contents. `client` pairs certificate and key; an empty key means both are in one file."""

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False

    @property
    def is_set(self) -> bool:
        return bool(self.ca or self.client or self.skip_verify)


class Host(NamedTuple):
    """One place to ask. `address` is ``host[:port]``, `path` what comes before ``/<repository>/manifests/...``."""

    scheme: str
    address: str
    path: str = API
    capabilities: frozenset[str] = CAPABILITIES
    tls: TLS = TLS()
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float | None = None
    may_be_plain: bool = False
    """Speak plain HTTP when TLS fails because the peer has none: loopback only."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}{self.path}"


class Settings(NamedTuple):
    """What applies to a registry that no hosts.toml describes."""

    folder: str = ""
    plain_http: bool = False
    tls: TLS = TLS()
    mirrors: tuple[str, ...] = ()
    """Addresses that are asked before the registry itself when there is no hosts.toml; never pushed to."""
    insecure: bool = False
    """As Docker has it: certificates aren't checked, and plain HTTP will do where there is no TLS."""


def hosts_for(domain: str, settings: Settings) -> list[Host]:
    """Where to ask for images of `domain`, in order. Raises BadConfiguration."""
    folder = _folder_of(domain, settings.folder) if settings.folder else None
    if folder is None:
        return [*map(_mirror, settings.mirrors), default_host(domain, settings)]
    file = folder / "hosts.toml"
    if not file.exists():
        own = default_host(domain, settings._replace(tls=_docker_style(folder) or settings.tls))
        return [*map(_mirror, settings.mirrors), own]
    return _read(file, domain, settings)


def default_host(domain: str, settings: Settings) -> Host:
    """The registry itself."""
    address = HUB_HOST if domain == DOCKER_HUB else domain
    name = urlsplit(f"//{address}").hostname or address
    local = is_loopback(name) and not settings.tls.is_set and not address.endswith(":443")
    return Host(
        "http" if settings.plain_http else "https",
        address,
        tls=settings.tls._replace(skip_verify=True) if settings.insecure else settings.tls,
        may_be_plain=(local or settings.insecure) and not settings.plain_http,
    )


def _mirror(url: str) -> Host:
    """Docker's mirrors: whole addresses, below which the API begins."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BadConfiguration(f"{url!r} is no address of a mirror", "write it as https://host[:port]")
    return Host(parts.scheme, parts.netloc, parts.path.rstrip("/") + API, frozenset(("pull", "resolve")))


def is_mirror(host: Host, domain: str) -> bool:
    """A mirror is told whose images are meant (``?ns=``)."""
    return host.address != (HUB_HOST if domain == DOCKER_HUB else domain)


def _folder_of(domain: str, folder: str) -> Path | None:
    name, colon, port = domain.rpartition(":")
    names = [f"{name}_{port}_"] if colon and port.isdigit() else []
    for candidate in (*names, domain, "_default"):
        if (found := Path(folder, candidate)).is_dir():
            return found
    return None


def _docker_style(folder: Path) -> TLS | None:
    names = sorted(os.listdir(folder))
    ca = tuple(str(folder / name) for name in names if name.endswith(".crt"))
    pairs = []
    for name in (name for name in names if name.endswith(".cert")):
        key = folder / f"{name.removesuffix('.cert')}.key"
        if not key.exists():
            raise BadConfiguration(
                f"{folder / name}: its key {key.name} is missing",
                "client certificates come in pairs: *.cert, *.key",
            )
        pairs.append((str(folder / name), str(key)))
    return TLS(ca, tuple(pairs)) if ca or pairs else None


# -- hosts.toml ---------------------------------------------------------------------------------------------


def _read(file: Path, domain: str, settings: Settings) -> list[Host]:
    try:
        with open(file, "rb") as text:
            data = tomllib.load(text)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{file}: {error}") from None
    tables = data.get("host") or {}
    if not isinstance(tables, dict):
        raise BadConfiguration(f"{file}: host is no table", 'write [host."https://mirror.example.com"]')
    found = [_host(file, url, table, settings) for url, table in tables.items()]
    server = data.get("server") or ""
    if server:
        found.append(_host(file, server, data, settings))
        return found
    own = default_host(domain, settings)
    fields = _fields(file, data, settings)
    secure = own.may_be_plain and not fields["tls"].is_set
    return [*found, own._replace(**fields, may_be_plain=secure)]


def _host(file: Path, url: Any, table: Any, settings: Settings) -> Host:
    if not isinstance(table, dict) or not isinstance(url, str):
        raise BadConfiguration(f"{file}: host {url!r} is no table")
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BadConfiguration(
            f"{file}: {url!r} is no address of a registry", "write it as https://host[:port]"
        )
    path = parts.path.rstrip("/")
    if not table.get("override_path"):
        path = path if path.endswith(API) else f"{path}{API}"
    plain = "://" not in url and settings.plain_http
    fields = _fields(file, table, settings)
    return Host("http" if plain else parts.scheme, parts.netloc, path, **fields)


def _fields(file: Path, table: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What may stand in a host's table, and at the top for the server."""
    capabilities = table.get("capabilities")
    if capabilities is not None and not _all_strings(capabilities):
        raise BadConfiguration(f"{file}: capabilities is no list of words: {capabilities!r}")
    unknown = set(capabilities or ()) - CAPABILITIES
    if unknown:
        known = ", ".join(sorted(CAPABILITIES))
        raise BadConfiguration(f"{file}: unknown capability {min(unknown)!r}", f"there are {known}")
    return {
        "capabilities": CAPABILITIES if capabilities is None else frozenset(capabilities),
        "tls": _tls(file, table) or settings.tls,
        "headers": _headers(file, table.get("header") or {}),
        "dial_timeout": _seconds(file, table.get("dial_timeout")),
    }


def _tls(file: Path, table: Mapping[str, Any]) -> TLS | None:
    ca = table.get("ca") or []
    ca = [ca] if isinstance(ca, str) else ca
    if not _all_strings(ca):
        raise BadConfiguration(f"{file}: ca is neither a file name nor a list of them: {ca!r}")
    client = table.get("client") or []
    pairs = [_pair(file, entry) for entry in ([client] if isinstance(client, str) else client)]
    skip = table.get("skip_verify", False)
    if not isinstance(skip, bool):
        raise BadConfiguration(f"{file}: skip_verify is neither true nor false: {skip!r}")
    found = TLS(tuple(str(file.parent / name) for name in ca), tuple(pairs), skip)
    return found if found.is_set else None


def _pair(file: Path, entry: Any) -> tuple[str, str]:
    names = [entry] if isinstance(entry, str) else entry
    if not _all_strings(names) or not 1 <= len(names) <= 2:
        raise BadConfiguration(
            f"{file}: client {entry!r} is no certificate", 'write client = [["cert", "key"]]'
        )
    paths = [str(file.parent / name) if name else "" for name in names]
    return paths[0], paths[1] if len(paths) == 2 else ""


def _headers(file: Path, table: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(table, dict):
        raise BadConfiguration(f"{file}: header is no table: {table!r}")
    found: list[tuple[str, str]] = []
    for name, value in table.items():
        values = [value] if isinstance(value, str) else value
        if not _all_strings(values) or any(set(text) & {"\r", "\n", "\0"} for text in (name, *values)):
            raise BadConfiguration(f"{file}: header {name!r} has the bad value {value!r}")
        found += [(name, text) for text in values]
    return tuple(found)


def _seconds(file: Path, value: Any) -> float | None:
    """Go's durations: "300ms", "1m30s"."""
    if value is None:
        return None
    pieces = _DURATION.findall(value) if isinstance(value, str) else []
    if not pieces or "".join(number + unit for number, unit in pieces) != value:
        raise BadConfiguration(
            f"{file}: dial_timeout {value!r} is no duration", 'write it as "3s" or "500ms"'
        )
    return sum(float(number) * _UNITS[unit] for number, unit in pieces)


def _all_strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
