"""Builds the Diff service: "walking", as containerd calls the one that walks trees."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from longshore.api.errors import InvalidArgument
from longshore.api.services.diff.v1.diff_pb2_grpc import add_DiffServicer_to_server
from longshore.api.types.mount_pb2 import Mount
from longshore.containerd.diff.processors import configured
from longshore.containerd.diff.service import DiffService, Holding
from longshore.containerd.proxies.diff import DifferChain
from longshore.containerd.snapshots import snapshotter
from longshore.containerd.snapshots.local import LocalSnapshotter

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit


def build_differ(kit: Kit) -> None:
    from longshore.containerd.builtins import Skip

    if kit.zygote is None:
        raise Skip("there is no zygote to run workers: skip plugin")
    scratch = kit.directories.plugin_state("io.containerd.differ.v1", "walking")
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    processors = configured(kit.config.stream_processors)
    kit.differs["walking"] = DiffService(kit.content, kit.zygote, str(scratch), _holding(kit), processors)


def _holding(kit: Kit) -> Holding:
    """What a layer is applied to, or compared, is garbage if no lease has it; but not while we work on it."""

    def hold(mounts: Iterable[Mount]) -> AbstractAsyncContextManager[None]:
        plain = [snapshotter.Mount(each.type, each.source, tuple(each.options)) for each in mounts]
        local = [each for each in kit.snapshotters.values() if isinstance(each, LocalSnapshotter)]
        return kit.holds.hold_found(lambda: [node for each in local for node in each.behind(plain)])

    return hold


def build_service(kit: Kit) -> None:
    add_DiffServicer_to_server(chain(kit), kit.server)  # type: ignore[arg-type]


def chain(kit: Kit) -> DifferChain:
    """All differs, in the configured order."""
    order = kit.config.plugin("io.containerd.service.v1.diff-service").get("default", ["walking"])
    if not isinstance(order, list):
        raise InvalidArgument("default of the diff-service must be a list of names: invalid argument")
    return DifferChain(kit.differs, [str(name) for name in order])
