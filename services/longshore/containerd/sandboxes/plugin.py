"""Builds the sandbox store, the shim controller, and their services."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from longshore.api.services.sandbox.v1.sandbox_pb2_grpc import (
    add_ControllerServicer_to_server,
    add_StoreServicer_to_server,
)
from longshore.containerd.sandboxes.service import DEFAULT, SandboxControllerService, publish_exit
from longshore.containerd.sandboxes.shims import ShimController
from longshore.containerd.sandboxes.store import SandboxStoreService
from longshore.containerd.tasks.bundle import Directories

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit

CONTROLLER: Final = "io.containerd.sandbox.controller.v1"


def build_controller(kit: Kit) -> None:
    manager = kit.manager
    directories = Directories(
        str(kit.directories.plugin_state(CONTROLLER, "shim")),
        str(kit.directories.plugin_root(CONTROLLER, "shim")),
    )
    controller = ShimController(
        directories, manager.settings, manager.runtimes, manager.timeouts, partial(publish_exit, kit.store)
    )
    kit.sandbox_controllers[DEFAULT] = controller
    kit.before_serving.append(controller.recover)
    kit.stack.push_async_callback(controller.close)


def build_store_service(kit: Kit) -> None:
    add_StoreServicer_to_server(SandboxStoreService(kit.store), kit.server)  # type: ignore[arg-type]


def build_controller_service(kit: Kit) -> None:
    service = SandboxControllerService(kit.store, kit.sandbox_controllers)
    add_ControllerServicer_to_server(service, kit.server)  # type: ignore[arg-type]
