"""config.toml: the fields we act on, from a file of any version that containerd 2.3 reads.

Versions 1 to 4 are accepted (none given means 1). A higher one is refused:
half understood settings are worse than none. Older places are read into the
new ones: version 1's short plugin names, and the ``[grpc]``, ``[ttrpc]``,
``[debug]`` and ``[metrics]`` tables that version 4 keeps under ``[plugins]``.
Fields that aren't ours to act on are kept in `plugins` for whoever is.
"""

from __future__ import annotations

import glob
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from longshore.api.errors import InvalidArgument

LATEST: Final = 4
DEFAULT_PATH: Final = Path("/etc/containerd/config.toml")
_SERVER: Final = "io.containerd.server.v1."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A part served by another process: ``[proxy_plugins.NAME]``."""

    type: str
    address: str
    platform: str = ""
    exports: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TCP:
    """The second door of the gRPC server, if `address` is given. With a `ca` clients must show a certificate."""

    address: str = ""
    cert: str = ""
    key: str = ""
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """What the daemon was told, with containerd's defaults."""

    root: Path = Path("/var/lib/containerd")
    state: Path = Path("/run/containerd")
    address: str = "/run/containerd/containerd.sock"
    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)
    max_recv_message_size: int = 16 << 20
    max_send_message_size: int = 16 << 20
    tcp: TCP = TCP()
    ttrpc_address: str = ""
    log_level: str = "info"
    log_format: str = "text"
    oom_score: int = 0
    disabled_plugins: tuple[str, ...] = ()
    required_plugins: tuple[str, ...] = ()
    timeouts: Mapping[str, str] = field(default_factory=dict)
    proxy_plugins: Mapping[str, Proxy] = field(default_factory=dict)
    stream_processors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def plugin(self, uri: str) -> Mapping[str, Any]:
        """The settings of a part, {} if none were given."""
        return self.plugins.get(uri, {})

    @property
    def ttrpc_socket(self) -> str:
        """The twin of the gRPC socket on which shims call."""
        return self.ttrpc_address or f"{self.address}.ttrpc"


def load(path: Path | None) -> Config:
    """The settings of a file and what it imports. None: the default file, or the defaults if there is none.

    Raises InvalidArgument naming the file and the field.
    """
    if path is None:
        if not DEFAULT_PATH.exists():
            return Config()
        path = DEFAULT_PATH
    tables = _read(path)
    for imported in _imports(path, tables):
        other = _read(imported)
        if _version(other, imported) > _version(tables, path):
            raise InvalidArgument(f"{imported}: drop-in config version may not be higher than that of {path}")
        tables = _merged(tables, other)
    return parse(tables, str(path))


def parse(tables: Mapping[str, Any], source: str = "config") -> Config:
    """Turn a decoded TOML document into settings."""
    version = _version(tables, source)
    reader = _Reader(_raised(tables, version), source)
    server = {
        name: reader.table("plugins", _SERVER + name) for name in ("grpc", "grpc-tcp", "ttrpc", "debug")
    }
    base = Config()
    return Config(
        root=Path(reader.get("root", str, str(base.root))),
        state=Path(reader.get("state", str, str(base.state))),
        address=server["grpc"].get("address", str, base.address),
        uid=server["grpc"].get("uid", int, base.uid),
        gid=server["grpc"].get("gid", int, base.gid),
        max_recv_message_size=server["grpc"].get("max_recv_message_size", int, 0)
        or base.max_recv_message_size,
        max_send_message_size=server["grpc"].get("max_send_message_size", int, 0)
        or base.max_send_message_size,
        tcp=_tcp(server["grpc"], server["grpc-tcp"]),
        ttrpc_address=server["ttrpc"].get("address", str, ""),
        log_level=server["debug"].get("level", str, "") or base.log_level,
        log_format=server["debug"].get("format", str, "") or base.log_format,
        oom_score=reader.get("oom_score", int, 0),
        disabled_plugins=reader.strings("disabled_plugins"),
        required_plugins=reader.strings("required_plugins"),
        timeouts=reader.get("timeouts", dict, {}),
        proxy_plugins={
            name: _proxy(reader.table("proxy_plugins", name)) for name in reader.keys("proxy_plugins")
        },
        stream_processors=reader.get("stream_processors", dict, {}),
        plugins=reader.get("plugins", dict, {}),
    )


def with_flags(config: Config, **given: Any) -> Config:
    """The command line wins over the file; a flag that is None wasn't given."""
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def dump(config: Config) -> str:
    """The settings as a version 4 file."""
    server: dict[str, dict[str, Any]] = {
        "grpc": {
            "address": config.address,
            "uid": config.uid,
            "gid": config.gid,
            "max_recv_message_size": config.max_recv_message_size,
            "max_send_message_size": config.max_send_message_size,
        },
        "grpc-tcp": {
            "address": config.tcp.address,
            "tls_cert": config.tcp.cert,
            "tls_key": config.tcp.key,
            "tls_ca": config.tcp.ca,
        },
        "ttrpc": {"address": config.ttrpc_socket, "uid": config.uid, "gid": config.gid},
        "debug": {"level": config.log_level, "format": config.log_format},
    }
    plugins: dict[str, dict[str, Any]] = {
        uri: dict(table) for uri, table in config.plugins.items() if not uri.startswith(_SERVER)
    }
    plugins |= {_SERVER + name: dict(table) for name, table in server.items()}
    document: dict[str, Any] = {
        "version": LATEST,
        "root": str(config.root),
        "state": str(config.state),
        "oom_score": config.oom_score,
        "disabled_plugins": list(config.disabled_plugins),
        "required_plugins": list(config.required_plugins),
        "timeouts": dict(config.timeouts),
        "proxy_plugins": {name: _proxy_table(proxy) for name, proxy in config.proxy_plugins.items()},
        "stream_processors": {name: dict(table) for name, table in config.stream_processors.items()},
        "plugins": dict(sorted(plugins.items())),
    }
    return "\n".join(_toml_lines(document, ())).strip() + "\n"


# -- reading ------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidArgument(f"failed to load {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"failed to load {path}: {error}") from None


def _version(tables: Mapping[str, Any], source: object) -> int:
    version = tables.get("version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise InvalidArgument(f"{source}: version must be a number, not {version!r}")
    if version > LATEST:
        raise InvalidArgument(
            f"{source}: expected containerd config version equal to or less than `{LATEST}`, got `{version}`"
        )
    return max(version, 1)


def _imports(path: Path, tables: Mapping[str, Any]) -> list[Path]:
    found: list[Path] = []
    for pattern in _Reader(tables, str(path)).strings("imports"):
        absolute = pattern if os.path.isabs(pattern) else str(path.parent / pattern)
        matches = sorted(glob.glob(absolute)) if glob.has_magic(absolute) else [absolute]
        found += [match for match in map(Path, matches) if match != path and match not in found]
    return found


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, lists appended, anything else replaced; as containerd merges its drop-ins."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _merged(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            result[key] = [*old, *(item for item in value if item not in old)]
        else:
            result[key] = value
    return result


# Version 1 named a plugin by its last word.
_SHORT_NAMES: Final = {
    "cgroups": "io.containerd.monitor.v1.cgroups",
    "content": "io.containerd.content.v1.content",
    "cri": "io.containerd.grpc.v1.cri",
    "diff-service": "io.containerd.service.v1.diff-service",
    "linux": "io.containerd.runtime.v1.linux",
    "opt": "io.containerd.internal.v1.opt",
    "overlayfs": "io.containerd.snapshotter.v1.overlayfs",
    "native": "io.containerd.snapshotter.v1.native",
    "restart": "io.containerd.internal.v1.restart",
    "scheduler": "io.containerd.gc.v1.scheduler",
    "tasks-service": "io.containerd.service.v1.tasks-service",
}


def _raised(tables: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The document as version 4 would have written it."""
    result = dict(tables)
    plugins = result.get("plugins", {})
    if version < 4 and isinstance(plugins, dict):
        moved = {
            _SERVER + name: result.pop(name)
            for name in ("grpc", "ttrpc", "debug", "metrics")
            if name in result
        }
        result["plugins"] = {**plugins, **moved}
    if version == 1 and isinstance(result.get("plugins"), dict):
        result["plugins"] = {_SHORT_NAMES.get(name, name): table for name, table in result["plugins"].items()}
        for key in ("disabled_plugins", "required_plugins"):
            if isinstance(result.get(key), list):
                result[key] = [_SHORT_NAMES.get(name, name) for name in result[key]]
    return result


class _Reader:
    """A table that says where it stands when a field has the wrong type."""

    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        self._table = table
        self._where = where

    def get(self, key: str, kind: type[T], default: T) -> T:
        value = self._table.get(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidArgument(f"{self._where}: {key} must be {_KINDS[kind]}, not {value!r}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        values = self.get(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise InvalidArgument(f"{self._where}: {key} must be a list of strings, not {values!r}")
        return tuple(values)

    def keys(self, key: str) -> list[str]:
        return list(self.get(key, dict, cast("dict[str, Any]", {})))

    def table(self, *path: str) -> _Reader:
        reader = self
        for key in path:
            inner = reader.get(key, dict, cast("dict[str, Any]", {}))
            reader = _Reader(inner, f"{reader._where}: {key}")
        return reader


_KINDS: Final[dict[type[Any], str]] = {str: "a string", int: "a number", list: "a list", dict: "a table"}


def _tcp(grpc: _Reader, own: _Reader) -> TCP:
    """Version 4 has a table of its own for what used to be fields of ``[grpc]``."""

    def field(name: str) -> str:
        return own.get(name, str, "") or grpc.get(f"tcp_{name}", str, "")

    return TCP(field("address"), field("tls_cert"), field("tls_key"), field("tls_ca"))


def _proxy(reader: _Reader) -> Proxy:
    return Proxy(
        type=reader.get("type", str, ""),
        address=reader.get("address", str, ""),
        platform=reader.get("platform", str, ""),
        exports=reader.get("exports", dict, cast("dict[str, str]", {})),
        capabilities=reader.strings("capabilities"),
    )


# -- writing ------------------------------------------------------------------------------------------------


def _proxy_table(proxy: Proxy) -> dict[str, Any]:
    table: dict[str, Any] = {"type": proxy.type, "address": proxy.address}
    if proxy.platform:
        table["platform"] = proxy.platform
    if proxy.exports:
        table["exports"] = dict(proxy.exports)
    if proxy.capabilities:
        table["capabilities"] = list(proxy.capabilities)
    return table


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """A table's own values, then its sub-tables under their headers."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in table.items() if key not in inner]
    for key, value in inner.items():
        below = (*path, key)
        lines += ["", f"[{'.'.join(map(_toml_key, below))}]", *_toml_lines(value, below)]
    return lines


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _toml_value(key)


def _toml_value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(_TOML_ESCAPES.get(character, character) for character in value) + '"'
        case list() | tuple():
            return "[" + ", ".join(map(_toml_value, value)) + "]"
        case Mapping():
            return "{ " + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
        case _:
            return str(value)


_TOML_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    **{chr(code): f"\\u{code:04x}" for code in (*range(0x20), 0x7F)},
}
