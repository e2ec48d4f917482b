"""Builds Transfer from the settings of ``io.containerd.transfer.v1.local``, whose names are containerd's.

    max_concurrent_downloads, max_concurrent_uploaded_layers    3 of each
    config_path      folder of hosts.toml files for requests that name none
    unpack_config    list of {platform, snapshotter}

and of ``io.containerd.image-verifier.v1.bindir``: bin_dir, max_verifiers, per_verifier_timeout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from longshore.api.errors import InvalidArgument
from longshore.api.services.transfer.v1.transfer_pb2_grpc import add_TransferServicer_to_server
from longshore.containerd.diff import plugin as diff
from longshore.containerd.tasks.shim import seconds
from longshore.containerd.transfer.service import Settings, TransferService
from longshore.containerd.transfer.verifier import BinDir
from longshore.registry.platforms import Platform

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit

LOCAL = "io.containerd.transfer.v1.local"
VERIFIER = "io.containerd.image-verifier.v1.bindir"

T = TypeVar("T")


def build_verifier(kit: Kit) -> None:
    given = kit.config.plugin(VERIFIER)
    folder = _get(given, "bin_dir", str, "/opt/containerd/image-verifier/bin")
    timeout = seconds("per_verifier_timeout", _get(given, "per_verifier_timeout", str, "10s"))
    kit.verify = BinDir(folder, _get(given, "max_verifiers", int, 10), timeout).verify


def build(kit: Kit) -> None:
    kit.transfer = TransferService(
        kit.store,
        kit.content,
        kit.snapshotters,
        diff.chain(kit),
        kit.streams,
        _settings(kit.config.plugin(LOCAL)),
        kit.verify,
    )


def build_service(kit: Kit) -> None:
    add_TransferServicer_to_server(kit.transfer, kit.server)  # type: ignore[arg-type]


def _settings(given: Mapping[str, Any]) -> Settings:
    default = Settings()
    unpacks = tuple(_unpack(each, default.unpacks[0]) for each in _get(given, "unpack_config", list, []))
    return Settings(
        _get(given, "max_concurrent_downloads", int, default.downloads),
        _get(given, "max_concurrent_uploaded_layers", int, default.uploads),
        _get(given, "config_path", str, ""),
        unpacks or default.unpacks,
    )


def _unpack(given: Any, default: tuple[Platform, str]) -> tuple[Platform, str]:
    if not isinstance(given, Mapping):
        raise InvalidArgument("unpack_config must be a list of tables: invalid argument")
    text = _get(given, "platform", str, "")
    return (
        Platform(*text.split("/")[:3]) if "/" in text else default[0],
        _get(given, "snapshotter", str, "") or default[1],
    )


def _get(table: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
    value = table.get(key, default)
    if not isinstance(value, kind):
        raise InvalidArgument(f"{key} has the wrong type: {value!r}: invalid argument")
    return value
