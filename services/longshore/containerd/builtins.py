"""THE list of what this daemon consists of. To know what it can do, read `BUILTINS`.

An entry names a part as containerd's plugin lists do, and has a function that
builds it from the `Kit`: constructs the class with plain arguments, puts on the
kit what later entries need, and adds a servicer to `kit.server` if the part
answers calls. Order matters: an entry uses what stands above it. Introspection
reports exactly these entries.

Adding a service: a class in a package of its own, its collaborators as
constructor arguments; then one function and one line here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from longshore.api import errors
from longshore.api.services.containers.v1.containers_pb2_grpc import add_ContainersServicer_to_server
from longshore.api.services.events.v1.events_pb2_grpc import add_EventsServicer_to_server
from longshore.api.services.images.v1.images_pb2_grpc import add_ImagesServicer_to_server
from longshore.api.services.introspection.v1.introspection_pb2_grpc import add_IntrospectionServicer_to_server
from longshore.api.services.leases.v1.leases_pb2_grpc import add_LeasesServicer_to_server
from longshore.api.services.namespaces.v1.namespace_pb2_grpc import add_NamespacesServicer_to_server
from longshore.api.services.version.v1.version_pb2_grpc import add_VersionServicer_to_server
from longshore.containerd import rpc
from longshore.containerd.config import Config
from longshore.containerd.containers.service import ContainersService
from longshore.containerd.content import plugin as content
from longshore.containerd.content.store import ContentStore
from longshore.containerd.diff import plugin as diff
from longshore.containerd.diff.differ import Differ
from longshore.containerd.directories import Directories
from longshore.containerd.events.exchange import Exchange
from longshore.containerd.events.service import EventsService
from longshore.containerd.events.subscriptions import SubscriptionFile
from longshore.containerd.gc import plugin as gc
from longshore.containerd.gc.collector import Collect, Tied
from longshore.containerd.gc.holds import Holds
from longshore.containerd.healthcheck import Health
from longshore.containerd.images.service import ImagesService
from longshore.containerd.introspection.service import IntrospectionService
from longshore.containerd.leases.service import LeasesService
from longshore.containerd.metadata.store import Store
from longshore.containerd.monitoring import plugin as monitoring
from longshore.containerd.mounts import plugin as mounts
from longshore.containerd.mounts.manager import Activations
from longshore.containerd.namespaces.service import NamespacesService
from longshore.containerd.oserrors import words
from longshore.containerd.plugins import PluginRecord
from longshore.containerd.proxies import plugin as proxies
from longshore.containerd.restart import plugin as restart
from longshore.containerd.sandboxes import plugin as sandboxes
from longshore.containerd.sandboxes.controller import Controller
from longshore.containerd.snapshots import plugin as snapshots
from longshore.containerd.snapshots.local import Numbers
from longshore.containerd.snapshots.snapshotter import Snapshotter
from longshore.containerd.streaming import plugin as streaming
from longshore.containerd.streaming.streams import Streams
from longshore.containerd.tasks import plugin as tasks
from longshore.containerd.tasks.manager import Manager
from longshore.containerd.tasks.service import TasksService
from longshore.containerd.transfer import plugin as transfer
from longshore.containerd.transfer.pull import Verify
from longshore.containerd.transfer.service import TransferService
from longshore.containerd.version.service import VersionService

if TYPE_CHECKING:
    from longshore.zygote.client import Zygote

log = structlog.get_logger("builtins")

Exports = Mapping[str, str]


class Skip(errors.Error):
    """Raised by a part that can't work on this machine: reported, not an alarm."""


@dataclass
class Kit:
    """What parts are built from, and what those built so far offer to later ones."""

    config: Config
    directories: Directories
    server: rpc.Registrar
    zygote: Zygote | None
    # Closed in reverse order when the daemon stops, after the last call has ended.
    stack: AsyncExitStack
    # What is there so far, in order; complete when the daemon serves.
    plugins: list[PluginRecord] = field(default_factory=list)
    # Started when every part is built and before the socket answers (recovery of tasks).
    before_serving: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    # Called when SIGTERM arrives, before running calls are waited for: end streams that would wait forever.
    on_stop: list[Callable[[], None]] = field(default_factory=list)

    store: Store = field(init=False)
    exchange: Exchange = field(init=False)
    content: ContentStore = field(init=False)
    snapshotters: dict[str, Snapshotter] = field(default_factory=dict)
    snapshot_numbers: Numbers | None = None
    holds: Holds = field(default_factory=Holds)
    # Set by the part that schedules garbage collections; without it nothing is ever collected.
    collect: Collect | None = None
    # What goes with a lease; told by the part that collects.
    tied: list[Tied] = field(default_factory=list)
    differs: dict[str, Differ] = field(default_factory=dict)
    introspection: IntrospectionService = field(init=False)
    health: Health = field(init=False)
    manager: Manager = field(init=False)
    tasks: TasksService = field(init=False)
    sandbox_controllers: dict[str, Controller] = field(default_factory=dict)
    streams: Streams = field(init=False)
    activations: Activations = field(init=False)
    # Asked before an image is pulled by Transfer; set by the image verifier.
    verify: Verify | None = None
    transfer: TransferService = field(init=False)


class Builtin(NamedTuple):
    type: str
    id: str
    build: Callable[[Kit], Exports | Awaitable[Exports | None] | None]
    requires: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    has_platform: bool = False  # see PluginRecord
    essential: bool = False  # without it there is no daemon


def _metadata(kit: Kit) -> Exports:
    kit.store = Store(kit.directories.metadata)
    kit.stack.callback(kit.store.close)
    return {"path": str(kit.directories.metadata), "policy": "shared"}


def _exchange(kit: Kit) -> None:
    file = SubscriptionFile(
        kit.directories.plugin_root("io.containerd.event.v1", "exchange") / "subscriptions"
    )
    kit.stack.callback(file.close)
    kit.exchange = Exchange(kit.store, file)
    kit.on_stop.append(kit.exchange.end_subscriptions)


def _containers(kit: Kit) -> None:
    add_ContainersServicer_to_server(ContainersService(kit.store), kit.server)  # type: ignore[arg-type]


def _events(kit: Kit) -> None:
    add_EventsServicer_to_server(EventsService(kit.exchange), kit.server)  # type: ignore[arg-type]


def _healthcheck(kit: Kit) -> None:
    """SERVING once the daemon listens; `daemon` says so."""
    kit.health = Health()
    add_HealthServicer_to_server(kit.health, kit.server)  # type: ignore[arg-type]


def _reflection(kit: Kit) -> None:
    """The last of all, because it tells of the others."""
    names = (*kit.server.services, reflection.SERVICE_NAME)
    servicer = reflection.aio.ReflectionServicer(names)
    add_ServerReflectionServicer_to_server(servicer, kit.server)  # type: ignore[no-untyped-call]


def _images(kit: Kit) -> None:
    add_ImagesServicer_to_server(ImagesService(kit.store, kit.collect), kit.server)  # type: ignore[arg-type]


def _introspection(kit: Kit) -> None:
    place = kit.directories.plugin_root("io.containerd.service.v1", "introspection-service")
    kit.introspection = IntrospectionService(kit.plugins, place / "uuid")
    add_IntrospectionServicer_to_server(kit.introspection, kit.server)  # type: ignore[arg-type]


def _leases(kit: Kit) -> None:
    add_LeasesServicer_to_server(LeasesService(kit.store, kit.collect), kit.server)  # type: ignore[arg-type]


def _namespaces(kit: Kit) -> None:
    add_NamespacesServicer_to_server(NamespacesService(kit.store), kit.server)  # type: ignore[arg-type]


def _version(kit: Kit) -> None:
    add_VersionServicer_to_server(VersionService(), kit.server)  # type: ignore[arg-type]


_GRPC: Final = "io.containerd.grpc.v1"
_METADATA: Final = ("io.containerd.metadata.v1",)
_CONTENT: Final = ("io.containerd.content.v1",)

BUILTINS: Final[tuple[Builtin, ...]] = (
    Builtin("io.containerd.metadata.v1", "sqlite", _metadata, essential=True),
    Builtin("io.containerd.event.v1", "exchange", _exchange, _METADATA, essential=True),
    Builtin("io.containerd.content.v1", "content", content.build_store, _METADATA),
    Builtin(snapshots.TYPE, "native", snapshots.build_native, _METADATA, has_platform=True),
    Builtin(snapshots.TYPE, "overlayfs", snapshots.build_overlayfs, _METADATA, has_platform=True),
    Builtin("io.containerd.differ.v1", "walking", diff.build_differ, _CONTENT, has_platform=True),
    Builtin("longshore.proxies.v1", "plugins", proxies.build, (*_CONTENT, *_METADATA)),
    Builtin(gc.TYPE, "scheduler", gc.build, _METADATA),
    Builtin(_GRPC, "introspection", _introspection, essential=True),
    Builtin(_GRPC, "containers", _containers, _METADATA),
    Builtin(_GRPC, "content", content.build_service, _CONTENT),
    Builtin(_GRPC, "diff", diff.build_service, ("io.containerd.differ.v1",)),
    Builtin(_GRPC, "events", _events, ("io.containerd.event.v1",)),
    Builtin(_GRPC, "gc", gc.build_service, (gc.TYPE, *_CONTENT)),
    Builtin(_GRPC, "healthcheck", _healthcheck, essential=True),
    Builtin(_GRPC, "images", _images, _METADATA),
    Builtin(_GRPC, "leases", _leases, _METADATA),
    Builtin(_GRPC, "namespaces", _namespaces, _METADATA),
    Builtin(_GRPC, "snapshots", snapshots.build_service, (snapshots.TYPE,)),
    Builtin(
        "io.containerd.runtime.v2", "task", tasks.build, (*_CONTENT, *_METADATA, "io.containerd.event.v1")
    ),
    Builtin(_GRPC, "tasks", tasks.build_service, ("io.containerd.runtime.v2",)),
    Builtin(
        restart.TYPE,
        "restart",
        restart.build,
        ("io.containerd.runtime.v2",),
        ("no", "always", "on-failure", "unless-stopped"),
    ),
    Builtin(sandboxes.CONTROLLER, "shim", sandboxes.build_controller, ("io.containerd.runtime.v2",)),
    Builtin(_GRPC, "sandboxes", sandboxes.build_store_service, _METADATA),
    Builtin(_GRPC, "sandbox-controllers", sandboxes.build_controller_service, (sandboxes.CONTROLLER,)),
    Builtin(mounts.TYPE, "sqlite", mounts.build),
    Builtin(_GRPC, "mounts", mounts.build_service, (mounts.TYPE,)),
    Builtin("io.containerd.streaming.v1", "manager", streaming.build),
    Builtin(_GRPC, "streaming", streaming.build_service, ("io.containerd.streaming.v1",)),
    Builtin("io.containerd.image-verifier.v1", "bindir", transfer.build_verifier),
    Builtin("io.containerd.transfer.v1", "local", transfer.build, (*_CONTENT, *_METADATA)),
    Builtin(_GRPC, "transfer", transfer.build_service, ("io.containerd.transfer.v1",)),
    Builtin(monitoring.TYPE, "metrics", monitoring.build_metrics, ("io.containerd.runtime.v2",)),
    Builtin(monitoring.TYPE, "debug", monitoring.build_debug),
    Builtin(_GRPC, "version", _version),
    Builtin(_GRPC, "reflection", _reflection),
)


async def build(kit: Kit) -> None:
    """Build everything that isn't disabled. A part that fails is reported and left out, unless it is required."""
    for builtin in BUILTINS:
        uri = f"{builtin.type}.{builtin.id}"
        if uri in kit.config.disabled_plugins and not builtin.essential:
            log.info("disabled by configuration", plugin=uri)
            continue
        exports, error = await _build_one(builtin, kit)
        if error is not None and (builtin.essential or uri in kit.config.required_plugins):
            raise error
        kit.plugins.append(
            PluginRecord(
                builtin.type,
                builtin.id,
                builtin.requires,
                exports,
                builtin.capabilities,
                builtin.has_platform,
                error,
            )
        )
    built = {f"{plugin.type}.{plugin.id}" for plugin in kit.plugins}
    if missing := [uri for uri in kit.config.required_plugins if uri not in built]:
        raise errors.FailedPrecondition(f"required plugin {missing[0]} is not built in: failed precondition")


async def _build_one(builtin: Builtin, kit: Kit) -> tuple[Exports, errors.Error | None]:
    try:
        _require_parts(builtin, kit)
        result = builtin.build(kit)
        exports = await result if inspect.isawaitable(result) else result
    except Skip as error:
        log.info("skipped", plugin=f"{builtin.type}.{builtin.id}", reason=error.message)
        return {}, error
    except Exception as error:
        if builtin.essential:
            raise
        reason = _reason(error)
        log.error(
            "part failed to start",
            plugin=f"{builtin.type}.{builtin.id}",
            error=str(reason),
            exc_info=None if isinstance(error, errors.Error | OSError) else error,
        )
        return {}, reason
    return exports or {}, None


def _reason(error: Exception) -> errors.Error:
    if isinstance(error, errors.Error):
        return error
    return (
        errors.Error(words(error)) if isinstance(error, OSError) else errors.from_code(*rpc.status_of(error))
    )


def _require_parts(builtin: Builtin, kit: Kit) -> None:
    """Raises NotFound unless of each type that the part needs there is one that works."""
    there = {plugin.type for plugin in kit.plugins if plugin.error is None}
    for type in builtin.requires:
        if type not in there:
            raise errors.NotFound(f"no plugins registered for {type}: plugin: not found")
