"""Builds snapshotters and their service. THE place where a directory-based snapshotter is registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import add_SnapshotsServicer_to_server
from longshore.containerd.snapshots.driver import Driver
from longshore.containerd.snapshots.local import LocalSnapshotter, Numbers
from longshore.containerd.snapshots.native import NativeDriver
from longshore.containerd.snapshots.overlay import OverlayDriver
from longshore.containerd.snapshots.service import SnapshotsService

if TYPE_CHECKING:
    from longshore.containerd.builtins import Exports, Kit

TYPE = "io.containerd.snapshotter.v1"


def build_overlayfs(kit: Kit) -> Exports:
    from longshore.containerd.builtins import Skip

    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        raise Skip("the kernel has no overlay filesystem: skip plugin")
    return _build(kit, "overlayfs", OverlayDriver)


def build_native(kit: Kit) -> Exports:
    return _build(kit, "native", NativeDriver)


def _build(kit: Kit, name: str, driver: Callable[[Path], Driver]) -> Exports:
    configured = kit.config.plugin(f"{TYPE}.{name}").get("root_path")
    root = Path(str(configured)) if configured else kit.directories.plugin_root(TYPE, name)
    numbers = kit.snapshot_numbers = kit.snapshot_numbers or Numbers(kit.store)
    snapshotter = LocalSnapshotter(name, driver(root), kit.store, numbers, kit.zygote, kit.holds)
    snapshotter.start()
    kit.stack.push_async_callback(snapshotter.close)
    kit.snapshotters[name] = snapshotter
    return {"root": str(root)}


def build_service(kit: Kit) -> None:
    add_SnapshotsServicer_to_server(SnapshotsService(kit.snapshotters), kit.server)  # type: ignore[arg-type]
