"""Builds the Mounts service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from longshore.api.services.mounts.v1.mounts_pb2_grpc import add_MountsServicer_to_server
from longshore.containerd.mounts.manager import Activations
from longshore.containerd.mounts.service import MountsService

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit

TYPE: Final = "io.containerd.mount-manager.v1"


def build(kit: Kit) -> None:
    kit.activations = Activations(kit.directories.plugin_state(TYPE, "sqlite"))


def build_service(kit: Kit) -> None:
    service = MountsService(kit.activations)
    kit.tied.append(service)
    add_MountsServicer_to_server(service, kit.server)  # type: ignore[arg-type]
