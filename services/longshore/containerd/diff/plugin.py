"""Builds the Diff service: "walking", as containerd calls the one that walks trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longshore.api.services.diff.v1.diff_pb2_grpc import add_DiffServicer_to_server
from longshore.containerd.diff.service import DiffService

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit


def build_differ(kit: Kit) -> None:
    from longshore.containerd.builtins import Skip

    if kit.zygote is None:
        raise Skip("there is no zygote to run workers: skip plugin")
    scratch = kit.directories.plugin_state("io.containerd.differ.v1", "walking")
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    kit.differ = DiffService(kit.content, kit.zygote, str(scratch))


def build_service(kit: Kit) -> None:
    add_DiffServicer_to_server(kit.differ, kit.server)  # type: ignore[arg-type]
