"""Builds the collector, its scheduler and our own service. Settings as containerd's, see `scheduler.Settings`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from longshore.api.services.gc.v1.gc_pb2_grpc import add_GCServicer_to_server
from longshore.containerd.gc import edges, mark
from longshore.containerd.gc.collector import Collector
from longshore.containerd.gc.scheduler import Scheduler, Settings
from longshore.containerd.gc.service import GCService

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit

TYPE: Final = "io.containerd.gc.v1"

log = structlog.get_logger("gc")


def build(kit: Kit) -> None:
    settings = Settings.of(kit.config.plugin(f"{TYPE}.scheduler"))
    store = kit.store
    collector = Collector(store, kit.holds, getattr(kit, "content", None), kit.snapshotters, kit.tied)
    scheduler = Scheduler(
        collector,
        settings,
        lambda after: store.read(lambda connection: mark.next_expiry(connection, after)),
    )
    kit.holds.on_release = lambda: scheduler.note(0, 1)
    kit.collect = scheduler.collect

    async def start() -> None:
        if await store.write(edges.rebuild_if_needed):
            log.info("derived what keeps what")
        store.on_changes(scheduler.note)
        scheduler.start()

    kit.before_serving.append(start)
    kit.stack.push_async_callback(scheduler.close)


def build_service(kit: Kit) -> None:
    service = GCService(kit.store, kit.holds, kit.content, kit.snapshotters, kit.collect)
    add_GCServicer_to_server(service, kit.server)  # type: ignore[arg-type]
