"""Builds the restart monitor. Setting ``interval`` ("10s") of io.containerd.monitor.container.v1.restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from longshore.containerd.restart.monitor import Monitor
from longshore.containerd.tasks.shim import seconds

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit

TYPE: Final = "io.containerd.monitor.container.v1"
_OLD: Final = "io.containerd.internal.v1.restart"  # its name before 2.0


def build(kit: Kit) -> None:
    given = kit.config.plugin(f"{TYPE}.restart") or kit.config.plugin(_OLD)
    interval = seconds("interval", str(given.get("interval", "10s")))
    monitor = Monitor(kit.store, kit.manager, kit.snapshotters, max(interval, 0.1))
    kit.before_serving.append(monitor.start)
    kit.stack.push_async_callback(monitor.close)
