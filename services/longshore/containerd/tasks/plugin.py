"""Builds everything about tasks from the daemon's settings: the services, the twin socket, recovery.

Settings, all below ``[plugins."io.containerd.shim.v1.manager"]``:

    env         list of NAME=VALUE that shim programs get
    socket_dir  where shims listen; at most 42 characters
    runtimes    table of runtime name -> absolute path of a shim program, to have
                io.containerd.runc.v2 served by containerd's own shim, say
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from longshore.api.errors import InvalidArgument, NotFound
from longshore.api.services.containers.v1.containers_pb2 import Container
from longshore.api.services.exits.v1.exits_pb2_grpc import add_ExitsServicer_to_server
from longshore.api.services.tasks.v1.tasks_pb2_grpc import add_TasksServicer_to_server
from longshore.containerd.exits.service import ExitsService
from longshore.containerd.metadata.store import Store
from longshore.containerd.tasks.bundle import Directories
from longshore.containerd.tasks.checkpoints import Checkpoints
from longshore.containerd.tasks.inspection import inspect
from longshore.containerd.tasks.manager import Manager
from longshore.containerd.tasks.recovery import Recovery
from longshore.containerd.tasks.runtimes import Runtimes, Settings
from longshore.containerd.tasks.service import TasksService
from longshore.containerd.tasks.shim import timeouts
from longshore.containerd.ttrpc_events.service import services
from longshore.containerd.version import VERSION
from longshore.ttrpc.aio import Server

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit

log = structlog.get_logger("tasks")

# A socket's name below it has 64 digits, "/" and "/d" for debugging; the kernel takes 107 bytes.
MAX_SOCKET_DIRECTORY = 42


def build(kit: Kit) -> None:
    """Make the tasks and add Exits to the server; recovery begins just before it serves."""
    config = kit.config
    given = config.plugin("io.containerd.shim.v1.manager")
    directories = Directories.below(str(config.state), str(config.root))
    settings = Settings(
        grpc_address=config.address,
        ttrpc_address=config.ttrpc_socket,
        containerd_binary=os.path.abspath(sys.argv[0]),
        containerd_version=VERSION,
        socket_dir=socket_directory(str(config.state), str(given.get("socket_dir", ""))),
        log_level=config.log_level,
        environment=_environment(given),
        runtime_root=str(config.state / "runc"),
    )
    manager = Manager(
        directories,
        settings,
        kit.zygote,
        kit.store,
        runtimes=_runtimes(given),
        timeouts=timeouts(config.timeouts),
    )
    kit.manager = manager
    records = Records(kit.store)
    exits = ExitsService(manager.journal)
    twin = Server(services(manager.journal))
    kit.tasks = TasksService(manager, records.container, Checkpoints(kit.content))
    add_ExitsServicer_to_server(exits, kit.server)  # type: ignore[arg-type]

    async def start() -> None:
        await asyncio.to_thread(directories.prepare)
        for problem in await asyncio.to_thread(directories.sweep):
            log.error("leftover not removed", error=problem)
        kit.introspection.inform(
            "io.containerd.runtime.v2", "task", partial(inspect, Runtimes(_runtimes(given)))
        )
        await twin.start(config.ttrpc_socket)
        kit.stack.callback(_unlink, config.ttrpc_socket)
        kit.stack.push_async_callback(twin.stop)
        recovery = asyncio.create_task(Recovery(manager, records.runtime_name).run())
        kit.stack.callback(recovery.cancel)

    if not given.get("socket_dir"):
        kit.stack.callback(_remove_unused, settings.socket_dir)
    kit.stack.push_async_callback(manager.close)
    kit.before_serving.append(start)
    kit.on_stop += [manager.stop_waiting, exits.stop]


def build_service(kit: Kit) -> None:
    """Add Tasks to the server. A plugin of its own, because that is the one clients look for."""
    add_TasksServicer_to_server(kit.tasks, kit.server)  # type: ignore[arg-type]


class Records:
    """Container records as the tasks need them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def container(self, namespace: str, id: str) -> Container:
        """The record. Raises NotFound."""
        row = self._store.read(
            lambda connection: connection.execute(
                "SELECT record FROM containers WHERE namespace = ? AND id = ?", (namespace, id)
            ).fetchone()
        )
        if row is None:
            raise NotFound(f'container "{id}" in namespace "{namespace}": not found')
        return Container.FromString(row[0])

    def runtime_name(self, namespace: str, id: str) -> str | None:
        """The runtime of a container, None if there is no such container."""
        try:
            return self.container(namespace, id).runtime.name
        except NotFound:
            return None


def socket_directory(state: str, configured: str) -> str:
    """Where shims listen: as configured, else ``<state>/s``, else a hashed name if that is too long.

    Raises InvalidArgument for a configured one that is too long.
    """
    if configured:
        if len(os.fsencode(configured)) > MAX_SOCKET_DIRECTORY:
            raise InvalidArgument(
                f"socket_dir {configured} is longer than {MAX_SOCKET_DIRECTORY} characters: invalid argument"
            )
        return configured
    below = os.path.join(state, "s")
    if len(os.fsencode(below)) <= MAX_SOCKET_DIRECTORY:
        return below
    top = "/run/longshore-s" if os.geteuid() == 0 else f"/tmp/longshore-s-{os.geteuid()}"
    return os.path.join(top, hashlib.sha256(os.fsencode(state)).hexdigest()[:12])


def _environment(given: Mapping[str, Any]) -> dict[str, str]:
    pairs = [str(item).partition("=") for item in given.get("env", [])]
    return {name: value for name, _, value in pairs}


def _runtimes(given: Mapping[str, Any]) -> dict[str, str]:
    table = given.get("runtimes", {})
    if not isinstance(table, Mapping) or not all(os.path.isabs(str(path)) for path in table.values()):
        raise InvalidArgument("runtimes must be a table of absolute paths: invalid argument")
    return {str(name): str(path) for name, path in table.items()}


def _remove_unused(folder: str) -> None:
    """The shims' place, unless one still listens there."""
    with suppress(OSError):
        if os.listdir(folder) == ["lock"]:
            os.unlink(os.path.join(folder, "lock"))
        os.rmdir(folder)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
